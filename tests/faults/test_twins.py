"""One worker under two addresses."""

from __future__ import annotations

import json
import time

from tests.faults.case import RigCase
from tests.faults.load import Load, get
from tests.faults.records import Count
from tests.faults.rig import Process

TWIN = "leads to the same worker as"


class Twins(RigCase):
    """With zpipe-worker."""

    def found(self, web: Process) -> bool:
        """Whether the web side shows one address as ready, and why the other is not."""
        workers = json.loads(get(web.port, "/workers")[2])["workers"]
        return sorted((w["state"] == "ready", TWIN in (w["why"] or "")) for w in workers) == [
            (False, True),
            (True, False),
        ]

    def test_it_is_used_by_one_of_them_before_and_after_it_was_killed(self) -> None:
        """The log does not go on about it."""
        worker = self.rig.worker()
        web = self.rig.web([f"tcp://127.0.0.1:{worker.port}", f"tcp://localhost:{worker.port}"])
        self.rig.until("one of two is used", lambda: self.found(web))
        load = Load(web.port, [b"0.01"] * 300).run(10)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(300))
        worker.popen.kill()
        worker.wait()
        worker = self.rig.again(worker)
        self.rig.until("it is ready again", lambda: self.found(web))
        ready = web.log.count(": ready (")
        time.sleep(3)  # forty times a second they replaced each other
        self.assertTrue(self.found(web))
        self.assertEqual(web.log.count(": ready ("), ready)
        self.assertLessEqual(ready, 8, web.log)
        load = Load(web.port, [b"0.01"] * 300).run(10)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(300))


class TwinsWithTheExample(Twins):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True
