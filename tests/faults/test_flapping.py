"""A worker that dies about every second, beside two that live."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from threading import Event

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import Load
from tests.faults.records import Count, ran_twice
from tests.faults.rig import Rig

BODIES = (b"0.05", b"0.1", b"0.2")


class Flapping(SynchronousTestCase):
    """With zpipe-worker, for half a minute."""

    example = False
    seconds = 30
    rate = 120  # jobs a second: more than two workers can run at once, ten each

    def test_its_jobs_are_neither_lost_nor_dead(self) -> None:
        """A job that was there alone each time that it died would be a dead letter; none is."""
        with Rig(self.example) as rig:
            workers = [rig.worker(handler="record_async") for _ in range(3)]
            web = rig.web([worker.port for worker in workers])
            rig.until_ready(web, 3)
            stop = Event()
            load = Load(web.port, self.bodies(stop)).start(4)
            ready = f":{workers[1].port}: ready ("
            kills = 0
            end = time.monotonic() + self.seconds
            with rig.kept_alive(workers) as current:
                while time.monotonic() < end:
                    time.sleep(random.uniform(0.2, 0.6))
                    current[1].popen.kill()
                    current[1].wait()
                    kills += 1
                    rig.until("it is ready again", lambda: web.log.count(ready) > kills)  # noqa: B023
            stop.set()
            load.join()
            self.assertEqual((load.refused, load.broken), ([], 0))
            count = rig.until_settled(load.accepted)
            self.assertEqual(count, Count.all_ran(len(load.accepted), count.run_twice))
            self.assertGreater(count.accepted, self.seconds * self.rate / 4)
            self.assertGreater(kills, self.seconds / 4)
            self.assertGreater(web.log.count("jobs go to other workers"), kills / 3, "it was idle when it died")
            self.assertLessEqual(ran_twice(rig.lines()), set(rig.record(workers[1].port).ended))

    def bodies(self, stop: Event) -> Iterator[bytes]:
        """So many a second."""
        while not stop.wait(1 / self.rate):
            yield random.choice(BODIES)


class FlappingWithTheExample(Flapping):
    """With a worker that was written from docs/protocol.rst alone, which runs one job at a time."""

    example = True
    seconds = 12
    rate = 20
