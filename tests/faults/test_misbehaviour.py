"""Handlers that misbehave, each beside a steady stream of good jobs: see `tests.faults.misbehaviour`."""

from __future__ import annotations

import re
import secrets
import signal
import time
from pathlib import Path
from threading import Event, Thread

from attrs import define, field

from tests.faults.case import RigCase
from tests.faults.load import pushed, status_of
from tests.faults.misbehaviour import ASYNCHRONOUS, BAD, PLAIN, THREADS, TIMEOUT, Bad
from tests.faults.rig import TWISTD, Process, free_port

WORKERS = 2

#: Of handlers that run in threads, at each worker.
AT_ONCE = 4

DRAIN = 2

#: From one good job to the next, in seconds.
EACH = 0.02

#: In the environment of all processes of one test.
MARK = "ZPIPE_TEST_MARK"

#: How each way of running is asked for.
OPTIONS = {
    PLAIN: ["--handler=tests.faults.misbehaviour:plain"],
    ASYNCHRONOUS: ["--handler=tests.faults.misbehaviour:asynchronous", f"--concurrency={AT_ONCE}"],
    THREADS: ["--handler=tests.faults.misbehaviour:plain", f"--threads={AT_ONCE}"],
}


@define(eq=False)
class Stream:
    """Good jobs, one after the other, until it is told to stop.

    :ivar accepted: their ids.
    """

    port: int
    accepted: list[str] = field(factory=list)
    _stop: Event = field(factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Stream:
        self._thread = Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EACH):
            self.accepted.append(pushed(self.port, b"good"))


def marked(mark: str) -> list[str]:
    """The command lines of all processes that have this mark in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                    found.append(f"{process.name} {(process / 'cmdline').read_bytes()!r}")
            except OSError:
                continue  # it has ended, or is about to
    return found


class MisbehaviourTests(RigCase):
    """By zpipe, which starts workers again that end."""

    def start(self, mode: str) -> Process:
        self.mark = secrets.token_hex(8)
        port, first = free_port(), free_port(WORKERS)
        web = self.rig.start(
            "zpipe",
            [
                *TWISTD,
                "zpipe",
                f"--listen=tcp:{port}:interface=127.0.0.1",
                f"--first-port={first}",
                f"--workers={WORKERS}",
                "--journal=jobs.sqlite",
                "--attempts=2",
                "--backoff=0.01:0.02",
                f"--timeout={TIMEOUT}",
                f"--drain={DRAIN}",
                *OPTIONS[mode],
            ],
            port,
            RECORD=str(self.rig.folder / f"record-{port}"),
            **{MARK: self.mark},
        )
        self.rig.webs[port] = web
        self.rig.until_ready(web, WORKERS)
        return web

    def ends(self, web: Process) -> None:
        """It ends in time, whatever is under way there, and nothing of it is left."""
        job_id = pushed(web.port, b"blocks")
        self.rig.until("a handler blocks", lambda: status_of(web.port, job_id)["state"] == "in flight")
        began = time.monotonic()
        web.signal(signal.SIGTERM)
        web.wait(DRAIN + 30)
        self.assertLess(time.monotonic() - began, DRAIN + 20, self.rig.logs())
        self.rig.until("nothing is left of it", lambda: not marked(self.mark), 5)

    def misbehave(self, web: Process, bad: dict[str, Bad], seconds: float) -> list[str]:
        """All of these, one of each, beside good jobs: ids of the good ones.

        :param seconds: by when all of them have to be settled.
        """
        with Stream(web.port) as stream:
            ids = {}
            for name in bad:
                ids[name] = pushed(web.port, name.encode())
            states: dict[str, dict[str, object]] = {}

            def are_settled() -> bool:
                for name, job_id in ids.items():
                    if name not in states:
                        status = status_of(web.port, job_id)
                        if status["state"] in ("done", "dead"):
                            states[name] = status
                return len(states) == len(ids)

            try:
                self.rig.until("all of them are settled", are_settled, seconds)
            except AssertionError as error:
                self.fail(f"not settled: {sorted(ids.keys() - states.keys())}\n{error}")
        wrong = [
            f"{name}: {status['state']}, {status['error']!r:.300}"
            for name, status in states.items()
            if status["state"] != bad[name].state or not re.search(bad[name].error, str(status["error"] or ""))
        ]
        self.assertEqual(wrong, [])
        return stream.accepted

    def try_all(self, mode: str) -> None:
        web = self.start(mode)
        ours = {name: bad for name, bad in BAD.items() if mode in bad.modes}
        quick = {name: bad for name, bad in ours.items() if not (bad.is_deadly or bad.holds)}
        self.assertGreater(len(quick), 40)
        good = self.misbehave(web, quick, 60)
        count = self.rig.until_all_ran(good)
        self.assertEqual((count.run, count.run_twice, count.lost), (len(good), 0, 0))
        good = self.misbehave(web, {name: bad for name, bad in ours.items() if bad.holds}, 120)
        count = self.rig.until_all_ran(good)
        # of what ended in the same moment before a plain handler blocked, the report comes too late
        twice = count.run_twice if mode == PLAIN else 0
        self.assertEqual((count.run, count.run_twice, count.lost), (len(good), twice, 0))
        good = self.misbehave(web, {name: bad for name, bad in ours.items() if bad.is_deadly}, 120)
        count = self.rig.until_all_ran(good)
        self.assertEqual((count.run, count.lost), (len(good), 0))
        self.ends(web)

    def test_plain_ones(self) -> None:
        self.try_all(PLAIN)

    def test_asynchronous_ones(self) -> None:
        self.try_all(ASYNCHRONOUS)

    def test_those_in_threads(self) -> None:
        self.try_all(THREADS)
