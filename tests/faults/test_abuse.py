"""Rude clients of all kinds, and beside them one that asks at even intervals: it is served as if they were not there.

    python -m tests.faults.test_abuse [--seconds 10] [--seed N] [--only TEXT]

has each kind be rude for so long, then all of them together, and prints how long the answers to that one client took,
for how long the web side computed meanwhile, how much memory it has had at most, and how many descriptors before and
after. On a quiet machine, 99 of 100 answers are there within 100 ms beside any one kind. As the tests here run on busy
machines too, they go by what was computed.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from attrs import frozen

from tests.faults.case import RigCase
from tests.faults.pulse import Beat, Pulse
from tests.faults.records import Count
from tests.faults.rig import Rig
from tests.faults.rude import CROWDS, Crowd, SlowBodies, SlowHeads, UnreadAnswers
from tests.open_files import count

WORKERS = 2

#: How many bytes all bodies may have together.
MAX_INCOMING = 64 << 20

#: How long those are rude that do not wait for a deadline, in seconds.
SECONDS = 8

#: How long a head, a part of a body and the reading of a part of an answer may take, in seconds.
DEADLINE = 30

HEADINGS = ("requests", "p50, ms", "p99, ms", "max, ms", "p99, CPU", "max, CPU", "MB", "fds", "after")


@frozen
class Figures:
    """What became of others while some were rude.

    :ivar beats: what was asked at even intervals since they began.
    :ivar memory: the most resident memory that the web side has had, in kB.
    :ivar before: how many descriptors it had before.
    :ivar after: how many it had when they had left.
    """

    beats: list[Beat]
    memory: int
    before: int
    after: int

    def took(self, share: float) -> float:
        """Within so many seconds this share of the answers was there."""
        return _at_share([beat.took for beat in self.beats], share)

    def cost(self, share: float) -> float:
        """For no more seconds the web side has computed until this share of the answers was there.

        Only those that do not wait for the disk: while that is busy, the web side computes for others.
        """
        return _at_share([beat.cost for beat in self.beats if not beat.job_id], share)

    @property
    def cells(self) -> list[str]:
        """Under `HEADINGS`."""
        times = self.took(0.5), self.took(0.99), self.took(1), self.cost(0.99), self.cost(1)
        numbers = [f"{self.memory / 1000:.0f}", str(self.before), str(self.after)]
        return [str(len(self.beats)), *(f"{seconds * 1000:.1f}" for seconds in times), *numbers]


def _at_share(numbers: list[float], share: float) -> float:
    return sorted(numbers)[int((len(numbers) - 1) * share)]


class Abuse:
    """A web side with its workers, the client that asks at even intervals, and rude ones.

    :param seed: what chance begins with.
    :ivar crowds: the rude ones.
    """

    def __init__(self, rig: Rig, kinds: Sequence[type[Crowd]], seed: int) -> None:
        workers = rig.pool(WORKERS)
        self._rig = rig
        self._web = rig.web([worker.port for worker in workers], f"--max-incoming={MAX_INCOMING}")
        rig.until_ready(self._web, WORKERS)
        self.crowds = [kind(self._web.port, random.Random(f"{seed} {kind.name}")) for kind in kinds]
        self._pulse = Pulse(rig, self._web)

    def run(self, is_enough: Callable[[], bool], seconds: float = 60) -> Figures:
        """Let them be rude until it is enough, and end everything.

        :param seconds: how long it may take until then.
        :raises AssertionError: what was asked at even intervals was refused or lost, something is left open, or the
            rude ones did not get what is owed to them.
        """
        pid = self._web.popen.pid
        before = min(count(pid) for _ in range(100))
        began = time.monotonic()
        self._be_rude(is_enough, seconds)
        self._rig.until("what they had opened is closed", lambda: count(pid) <= before)
        after, memory = count(pid), self._web.most_memory
        beats = self._pulse.end()
        self._check(beats)
        return Figures([beat for beat in beats if beat.due >= began], memory, before, after)

    def _be_rude(self, is_enough: Callable[[], bool], seconds: float) -> None:
        with ThreadPoolExecutor(max(1, len(self.crowds))) as threads:
            runs = [threads.submit(crowd.run) for crowd in self.crowds]
            try:
                self._rig.until("it is enough", lambda: is_enough() or any(run.done() for run in runs), seconds)
            finally:
                for crowd in self.crowds:
                    crowd.stop.set()
        for run in runs:
            run.result()

    def _check(self, beats: list[Beat]) -> None:
        refused = [beat for beat in beats if beat.status not in (200, 202)]
        assert not refused, f"{refused}\n{self._rig.logs()}"
        accepted = [beat.job_id for beat in beats if beat.job_id]
        ran = self._rig.until_all_ran(accepted)
        assert ran == Count.all_ran(len(accepted), ran.run_twice), ran
        assert self._web.end() == 0, self._rig.logs()
        assert "Traceback" not in self._web.log, self._rig.logs()

    def lasts(self, seconds: float) -> Callable[[], bool]:
        """Says whether they have been rude for so long, each of them."""
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end and all(crowd.done for crowd in self.crowds)


class AbuseTests(RigCase):
    def abuse(self, *kinds: type[Crowd]) -> Abuse:
        seed = secrets.randbits(32)
        print(f"\nseed {seed}", end=" ", flush=True)
        return Abuse(self.rig, kinds, seed)

    def assert_served(self, figures: Figures) -> None:
        """The others had their answers, and the web side has kept to its memory."""
        print(", ".join(f"{heading}: {cell}" for heading, cell in zip(HEADINGS, figures.cells, strict=True)), end=" ")
        self.assertLess(figures.cost(0.99), 0.5)
        self.assertLess(figures.took(1), 10)
        self.assertLess(figures.memory, 300_000)

    def test_others_are_served_beside_all_of_them(self) -> None:
        """Nothing that the others were told is accepted is lost."""
        abuse = self.abuse(*CROWDS)
        self.assert_served(abuse.run(abuse.lasts(SECONDS)))

    def test_who_is_too_slow_is_told_so_and_who_does_not_read_is_cut_off(self) -> None:
        """Each of them once, when its time is over."""
        abuse = self.abuse(SlowHeads, SlowBodies, UnreadAnswers)
        began = time.monotonic()
        figures = abuse.run(lambda: all(len(crowd.told) >= crowd.clients for crowd in abuse.crowds))
        self.assertGreater(time.monotonic() - began, DEADLINE)
        self.assert_served(figures)
        for crowd in abuse.crowds:
            self.assertEqual(len(crowd.told), crowd.clients, crowd.name)
        heads, bodies, _ = abuse.crowds
        for told in heads.told + bodies.told:
            last = told[told.rindex(b"HTTP/1.1 ") :]
            self.assertTrue(last.startswith(b"HTTP/1.1 408 "), told)
            self.assertIn(b"\r\nConnection: close\r\n", last)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each kind (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--only", metavar="TEXT", default="", help="those kinds that have this in their names")
    arguments = parser.parse_args()
    kinds = [kind for kind in CROWDS if arguments.only in kind.name]
    scenes: list[tuple[str, Sequence[type[Crowd]]]] = [("nobody", ()), *((kind.name, [kind]) for kind in kinds)]
    if len(kinds) > 1:
        scenes.append(("all of these", kinds))
    print(f"seed {arguments.seed}; load of the machine before: {os.getloadavg()[0]:.1f}")
    print(_row("", HEADINGS))
    failed = 0
    for name, chosen in scenes:
        with Rig() as rig:
            abuse = Abuse(rig, chosen, arguments.seed)
            try:
                cells = abuse.run(abuse.lasts(arguments.seconds), arguments.seconds + 60).cells
            except AssertionError as error:
                cells = [f"FAILED: {error}"]
                failed += 1
        print(_row(name, cells), flush=True)
    sys.exit(1 if failed else 0)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:20}" + "".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    main()
