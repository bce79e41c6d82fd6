"""The system's clock is set an hour forward, and an hour back, under load: nothing is early, and nothing is late."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event

from tests.faults.case import RigCase
from tests.faults.load import Load, dead_letters, get, status_of
from tests.faults.rig import Process
from tests.faults.test_web_goes import post_with_key
from tests.faults.wall_clock import WallClock

HOUR = 3600

#: How late a thing may be, in seconds, for want of a faster machine.
LATE = 8


class ClockIsSet(RigCase):
    """Two web sides, one with a journal and handlers of all kinds, one in memory with a handler of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = WallClock(self.rig.folder)
        self.rig.inside = self.clock.command
        self.workers = [
            self.rig.worker(),
            self.rig.worker(handler="record_async"),
            self.rig.worker(None, "--threads=4"),
        ]
        ports = [worker.port for worker in self.workers]
        alone = self.rig.worker(handler="record_async")
        self.web = self.rig.web(ports, "--timeout=6", "--keep=600", "--backoff=1:1", wait=False)
        self.other = self.rig.web([alone.port], "--timeout=3", "--keep=600", "--attempts=1", "--no-journal")
        self.rig.until_ready(self.other, 1)
        self.rig.until_ready(self.web, 3)
        self.keys: list[tuple[Process, str, str]] = []

    def test_nothing_is_early_and_nothing_is_late(self) -> None:
        """Retries, delays that handlers ask for, timeouts, keys and results, a worker that comes back, a restart."""
        ended = Event()
        load = Load(self.web.port, iter(lambda: ended.wait(0.01) or b"ordinary", True)).start(4)
        self.crosses("forward", HOUR)
        self.crosses("back", -HOUR)
        ended.set()
        load.join()
        self.assertEqual((load.refused, load.broken), ([], 0))
        self.rig.until_all_ran(load.accepted)
        shown = status_of(self.web.port, load.accepted[0])["accepted_at"]
        self.assertLess(abs(shown - (time.time() - HOUR)), 120, "what is shown goes by the clock as it is")
        self.goes_on_after_a_restart()

    def crosses(self, way: str, ahead: int) -> None:
        """Set the clock while jobs of all kinds are under way."""
        self.keys += [(web, key := f"{web.port}-{way}", post_with_key(web, key, b"")) for web in (self.web, self.other)]
        self.rig.until_ran([job_id for _, _, job_id in self.keys])
        (endless,) = Load(self.other.port, [b"60"]).run(1).accepted
        later = self.push(b"fail 1 later 3", 12)
        fails = self.push(b"fail 1", 12)
        long = self.push(b"2", 6)
        self.rig.until("most have begun", lambda: sum(bool(self.begun(job_id)) for job_id in long) > 3)

        self.clock.set(ahead)
        self.rig.until("that is logged", lambda: f"seconds {way}: jobs" in self.web.log, 10)
        self.keys_are_known(self.keys)
        self.rig.until_ran([*later, *fails, *long], 30)
        self.ran_once_for(2, long)
        self.runs_again_after(3, later)
        self.runs_again_after(0, fails)
        self.rig.until("what takes too long is dead", lambda: endless in dead_letters(self.other.port), 3 + LATE)
        self.comes_back()

    def push(self, body: bytes, times: int) -> list[str]:
        return Load(self.web.port, [body] * times).run(2).accepted

    def begun(self, job_id: str) -> list[float]:
        """When its attempts have begun, by the monotonic clock."""
        return [line.at for line in self.rig.lines() if line.job_id == job_id and line.body is not None]

    def runs_again_after(self, seconds: float, ids: Iterable[str]) -> None:
        """Not before, and not much later."""
        for job_id in ids:
            first, second = self.begun(job_id)
            self.assertTrue(seconds <= second - first < seconds + LATE, f"again after {second - first:.1f} seconds")

    def ran_once_for(self, seconds: float, ids: Iterable[str]) -> None:
        """They did not time out, nor did what their handlers wait for come early."""
        for job_id in ids:
            begin, end = [line.at for line in self.rig.lines() if line.job_id == job_id]
            self.assertGreaterEqual(end - begin, seconds)

    def keys_are_known(self, keys: Iterable[tuple[Process, str, str]]) -> None:
        """And what has come of their jobs."""
        for web, key, job_id in keys:
            self.assertEqual(post_with_key(web, key, b""), job_id)
            self.assertEqual(status_of(web.port, job_id)["state"], "done")
            self.assertEqual(get(web.port, f"/jobs/{job_id}/result")[0], 200)

    def comes_back(self) -> None:
        """A worker that is killed and started again takes part again."""
        worker = self.workers[0]
        worker.popen.kill()
        worker.wait()
        self.rig.until_ready(self.web, 2)
        self.workers[0] = self.rig.again(worker)
        self.rig.until_ready(self.web, 3)

    def goes_on_after_a_restart(self) -> None:
        """The time of a journal goes on: neither a key nor what is due knows that the clock was set."""
        later = self.push(b"fail 1 later 3", 1)
        self.rig.until("it waits", lambda: status_of(self.web.port, later[0])["state"] == "retrying")
        dead_letters(self.web.port)  # answered from the journal, after all that had been noted before
        self.web.popen.kill()
        self.web.wait()
        self.web = self.rig.again(self.web)
        self.rig.until_ran(later)
        self.runs_again_after(3, later)
        self.keys_are_known((self.web, key, job_id) for web, key, job_id in self.keys if web.port == self.web.port)
