"""What a web side says of workers that go, while they go: on real processes, under load."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

from tests.faults.case import RigCase
from tests.faults.load import Load, get
from tests.faults.rig import Process


def workers(web: Process) -> list[dict[str, Any]]:
    """What it says of each."""
    status, _, answer = get(web.port, "/workers")
    assert status == 200, answer
    found: list[dict[str, Any]] = json.loads(answer)["workers"]
    return found


def stats(web: Process) -> dict[str, Any]:
    """What it says of itself."""
    found: dict[str, Any] = json.loads(get(web.port, "/stats")[2])
    return found


class Seen(RigCase):
    def start(self) -> tuple[Process, list[Process]]:
        pool = self.rig.pool()
        web = self.rig.web([worker.port for worker in pool])
        self.rig.until_ready(web, 3)
        return web, pool

    def goes(self, number: int, within: float) -> tuple[Process, Process]:
        """Under load, one of three gets that signal; it is to be seen within so many seconds."""
        web, pool = self.start()
        load = Load(web.port, (b"job %d" % job for job in range(20_000))).start()
        self.rig.until("each of them works", lambda: all(worker["done"] for worker in workers(web)))
        pool[1].signal(number)
        gone_at = time.time()
        self.rig.until("it is seen", lambda: workers(web)[1]["state"] == "lost")
        lost = workers(web)[1]
        self.assertLess(lost["since"] - gone_at, within)
        self.assertTrue(lost["why"])
        self.assertEqual((lost["pid"], lost["in_flight"]), (pool[1].popen.pid, 0))
        self.assertEqual([worker["state"] for worker in workers(web)], ["ready", "lost", "ready"])
        load.join()
        self.rig.until("all are settled", lambda: stats(web)["pending"] == 0)
        found = stats(web)
        self.assertEqual((found["accepted"], found["done"], found["ready_workers"]), (20_000, 20_000, 2))
        self.assertLessEqual(sum(worker["done"] for worker in workers(web)), 20_000)
        return web, pool[1]

    def test_a_worker_that_is_killed_is_seen_within_two_seconds(self) -> None:
        """And the one in its place is ready, with another process."""
        web, killed = self.goes(signal.SIGKILL, 2.0)
        successor = self.rig.again(killed)
        self.rig.until("it is back", lambda: workers(web)[1]["state"] == "ready")
        self.assertEqual(workers(web)[1]["pid"], successor.popen.pid)

    def test_a_worker_that_freezes_is_seen_within_four_seconds(self) -> None:
        """And when it goes on it is ready, the same process."""
        web, frozen = self.goes(signal.SIGSTOP, 4.0)
        frozen.signal(signal.SIGCONT)
        self.rig.until("it is back", lambda: workers(web)[1]["state"] == "ready")
        self.assertEqual(workers(web)[1]["pid"], frozen.popen.pid)

    def test_a_worker_that_is_told_to_stop_has_left(self) -> None:
        web, pool = self.start()
        pool[0].end()
        self.rig.until("it is seen", lambda: workers(web)[0]["state"] == "lost")
        self.assertEqual(workers(web)[0]["why"], "it was told to stop, and has left")
