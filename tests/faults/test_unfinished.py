"""A peer sends a message that has no end: to a worker whose handler blocks it, and to the sink."""

from __future__ import annotations

import sys
from unittest import skipUnless

from tests.faults.case import RigCase
from tests.faults.load import Load
from tests.faults.records import Count
from tests.faults.rig import free_port
from tests.zmq_kit import RawPush

PART = bytes(1 << 20)
PARTS = 3000

#: What `zpipeline.unread` leaves to a peer, and what it may send until that is noticed, in kB.
MOST_MEMORY = 1_500_000


@skipUnless(sys.platform == "linux", "only Linux counts what a connection has brought")
class Unfinished(RigCase):
    def send_without_end(self, port: int) -> int:
        """How many parts it took until the peer was cut off."""
        peer = RawPush(f"tcp://127.0.0.1:{port}")
        self.addCleanup(peer.close)
        for number in range(PARTS):
            try:
                peer.part(PART)
            except OSError:
                return number
        return PARTS

    def test_it_is_cut_off_and_jobs_run(self) -> None:
        """Whatever it does, the memory of both has a bound."""
        sink = free_port()
        worker = self.rig.worker()
        web = self.rig.web([worker.port], f"--sink=tcp://127.0.0.1:{sink}")
        self.rig.until_ready(web, 1)
        blocking = Load(web.port, [b"15"]).run(1)
        self.rig.until("the worker is blocked", lambda: self.rig.record(worker.port).begun)
        self.assertLess(self.send_without_end(worker.port), PARTS)
        self.assertEqual(self.rig.ran(worker), 0, "it was not blocked meanwhile")
        self.assertLess(self.send_without_end(sink), PARTS)
        load = Load(web.port, [b"0"] * 100).run(10)
        self.assertEqual(self.rig.until_all_ran(blocking.accepted + load.accepted), Count.all_ran(101))
        for process in (worker, web):
            self.assertLess(process.most_memory, MOST_MEMORY)
            self.rig.until("it is said", lambda: "a message without an end" in process.log)  # noqa: B023
