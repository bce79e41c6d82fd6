"""The web side is stopped for longer than a worker may be silent, and goes on."""

from __future__ import annotations

import signal
import time

from tests.faults.case import RigCase
from tests.faults.load import Load
from tests.faults.records import Count

#: By `zpipeline.dispatch.GRACE` and --timeout=1 a worker that is silent for 6 seconds is overdue.
STOPPED = 8.0


class WebStandsStill(RigCase):
    """With zpipe-worker, which goes on working."""

    def test_no_worker_is_lost_and_no_job_runs_twice(self) -> None:
        """What they have reported meanwhile is in the kernel, and is read before anything is judged."""
        workers = self.rig.pool(seconds=0.3)
        web = self.rig.web([worker.port for worker in workers], "--timeout=1")
        self.rig.until_ready(web, 3)
        load = Load(web.port, [b"job %d" % number for number in range(60)]).run(10)
        self.rig.until("all of them work", lambda: all(self.rig.ran(worker) for worker in workers))
        web.signal(signal.SIGSTOP)
        time.sleep(STOPPED)
        web.signal(signal.SIGCONT)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(60))
        self.assertNotIn("has reported nothing", web.log)
        self.assertEqual(web.log.count(": ready ("), 3, web.log)
