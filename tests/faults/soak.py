"""Faults of all kinds at random, at full load: what was accepted runs, or, if it kills whatever runs it, is dead.

    python -m tests.faults.soak [--seconds 120] [--seed N] [--example]

The seed is printed, and decides which fault comes when; how far the processes are by then is not in its hands.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from tests.faults.bodies import POISON
from tests.faults.load import Load
from tests.faults.records import Count
from tests.faults.rig import Process, Rig

WORKERS = 4
CONNECTIONS = 30

#: How many seconds pass between two faults.
PAUSE = (0.1, 1.5)
#: How many jobs kill their worker, and how many fail at first: one in so many.
ONE_KILLS = 3000
ONE_FAILS = 200
ONE_IS_SLOW = 50

#: How long all that is left may take to settle, once there are no more faults, in seconds.
PATIENCE = 240


class Soak:
    """One run.

    :param seconds: for how long there are faults.
    :param seed: what chance begins with.
    :ivar faults: how many there were, by kind.
    """

    def __init__(self, rig: Rig, seconds: float, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self._rig = rig
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # how faults end
        self._is_over = False
        self._workers: list[Process] = []
        self._web: Process

    def run(self) -> Count:
        """Make all of it: what became of the jobs that were accepted.

        :raises AssertionError: something was lost, or is dead without having killed a worker.
        """
        self._workers = self._rig.pool(WORKERS, seconds=0.001)
        self._web = self._rig.web([worker.port for worker in self._workers], "--backoff=0.1:1", "--max-pending=5000")
        self._rig.until_ready(self._web, WORKERS)
        load = Load(self._web.port, self._bodies()).start(CONNECTIONS)
        self._make_faults()
        self._is_over = True
        load.join()
        with self._rig.kept_alive(self._workers):  # there may be poison left
            count = self._rig.until_settled(load.accepted, PATIENCE)
            dead = self._rig.dead()
        poisoned = {line.job_id for line in self._rig.lines() if (line.body or "").encode() in POISON}
        assert count.lost == 0, self._rig.logs()
        assert dead <= poisoned, (dead - poisoned, self._rig.logs())
        return count

    def _bodies(self) -> Iterator[bytes]:
        chance = random.Random(self._chance.random())
        while not self._is_over:
            if not chance.randrange(ONE_KILLS):
                yield chance.choice(POISON)
            elif not chance.randrange(ONE_FAILS):
                yield b"fail %d" % chance.randrange(1, 4)
            elif not chance.randrange(ONE_IS_SLOW):
                yield b"0.05"
            else:
                yield b"job"

    # Faults

    def _make_faults(self) -> None:
        kinds = (
            (self._kill_worker, 6),
            (self._stop_worker, 4),
            (self._freeze_worker, 4),
            (self._kill_web, 2),
            (self._stop_web, 1),
            (self._freeze_web, 1),
            (self._kill_everything, 1),
        )
        faults, weights = zip(*kinds, strict=True)
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            (fault,) = self._chance.choices(faults, weights)
            fault()
            self._mend(until=time.monotonic() + self._chance.uniform(*PAUSE))
        self._mend(until=None)

    def _mend(self, until: float | None) -> None:
        """End faults that are due, and start again what has died by itself, until then; or end all of them."""
        while until is None or time.monotonic() < until:
            while self._later and (until is None or self._later[0][0] <= time.monotonic()):
                heappop(self._later)[2]()
            self._revive()
            if until is None:
                return
            time.sleep(0.02)

    def _in(self, longest: float, action: Callable[[], None]) -> None:
        at = time.monotonic() + self._chance.uniform(0, longest)
        heappush(self._later, (at, len(self._later) + sum(self.faults.values()) * 1000, action))

    def _revive(self) -> None:
        for number, worker in enumerate(self._workers):
            if not worker.alive:
                self._workers[number] = self._rig.again(worker)

    def _kill_worker(self) -> None:
        self.faults["worker killed"] += 1
        self._chance.choice(self._workers).signal(signal.SIGKILL)

    def _stop_worker(self) -> None:
        self.faults["worker stopped"] += 1
        self._chance.choice(self._workers).signal(signal.SIGTERM)

    def _freeze_worker(self) -> None:
        self.faults["worker frozen"] += 1
        worker = self._chance.choice(self._workers)
        worker.signal(signal.SIGSTOP)
        self._in(4, lambda: worker.signal(signal.SIGCONT))

    def _kill_web(self) -> None:
        self.faults["web killed"] += 1
        self._end_web(signal.SIGKILL)

    def _stop_web(self) -> None:
        self.faults["web stopped"] += 1
        self._thaw()
        self._end_web(signal.SIGTERM)

    def _end_web(self, number: int) -> None:
        self._web.signal(number)
        self._web.signal(signal.SIGCONT)
        self._web.wait()
        self._web = self._rig.again(self._web)

    def _freeze_web(self) -> None:
        self.faults["web frozen"] += 1
        web = self._web
        web.signal(signal.SIGSTOP)
        self._in(3, lambda: web.signal(signal.SIGCONT))

    def _kill_everything(self) -> None:
        self.faults["all killed"] += 1
        for process in (self._web, *self._workers):
            process.signal(signal.SIGKILL)
        for process in (self._web, *self._workers):
            process.wait()
        self._revive()
        self._web = self._rig.again(self._web)

    def _thaw(self) -> None:
        """Whoever waits for what is in flight has to get it."""
        for worker in self._workers:
            worker.signal(signal.SIGCONT)


def soak(seconds: float, seed: int, *, example: bool = False) -> str:
    """One run, and what to say of it."""
    with Rig(example) as rig:
        run = Soak(rig, seconds, seed)
        count = run.run()
        faults = ", ".join(f"{kind} {times}" for kind, times in sorted(run.faults.items()))
    counts = f"accepted {count.accepted}, run {count.run}, run twice {count.run_twice}"
    return f"{counts}, dead {count.dead} (poison), lost {count.lost}; {faults}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--example", action="store_true", help="with examples/zpp_worker.py for a worker")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    try:
        print(soak(arguments.seconds, arguments.seed, example=arguments.example))
    except AssertionError as error:
        sys.exit(f"seed {arguments.seed}: {error}")


if __name__ == "__main__":
    main()
