"""The network between the web side and a worker goes, and nobody is told: no FIN, no reset, no ICMP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import count

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.load import Load
from tests.faults.records import Count, ran_twice
from tests.faults.rig import Process, Rig

#: Of the network for tests of network devices (RFC 2544), which nobody has; and no other run of these tests.
NETWORK = f"198.18.{os.getpid() % 256}"
HERE, THERE = f"{NETWORK}.1", f"{NETWORK}.2"

_numbers = count()


class Network:
    """A network namespace, joined to this one by a cable that can be pulled at its end.

    :ivar inside: what to write before a command that is to be run inside.
    :raises SkipTest: there can be none here.
    """

    def __init__(self, rig: Rig) -> None:
        if sys.platform != "linux" or os.geteuid() != 0:
            raise SkipTest("network namespaces take Linux and root")
        if shutil.which("ip") is None:
            raise SkipTest("there is no ip command (iproute2)")
        self._name = name = f"zpf{os.getpid()}n{next(_numbers)}"
        try:
            run("ip", "netns", "add", name)
            rig.callback(run, "ip", "netns", "del", name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            # at once: the system takes its time to do so for a namespace that is gone
            rig.callback(run, "ip", "link", "del", name)
            run("ip", "address", "add", f"{HERE}/30", "dev", name)
            run("ip", "link", "set", name, "up")
            run("ip", "-n", name, "address", "add", f"{THERE}/30", "dev", "eth0")
            self.plug()
        except subprocess.CalledProcessError as error:
            raise SkipTest(f"no network namespace can be made here: {error.stderr.decode().strip()}") from None
        self.inside = ["ip", "netns", "exec", name]

    def plug(self) -> None:
        """Have it carry packets."""
        run("ip", "-n", self._name, "link", "set", "eth0", "up")

    def pull(self) -> None:
        """Have it carry nothing."""
        run("ip", "-n", self._name, "link", "set", "eth0", "down")


class NetworkCut(SynchronousTestCase):
    """A worker on another network, and two beside the web side."""

    def start(self, rig: Rig, *, seconds: float) -> tuple[Process, Process, Network]:
        network = Network(rig)
        near = rig.pool(2, seconds=seconds)
        rig.inside = network.inside
        far = rig.worker(None, f"--interface={THERE}", seconds=seconds)
        rig.inside = []
        addresses = [*(f"tcp://127.0.0.1:{worker.port}" for worker in near), f"tcp://{THERE}:{far.port}"]
        web = rig.web(addresses, "--sink=tcp://*:*")
        rig.until_ready(web, 3)
        return web, far, network

    def test_jobs_behind_a_cut_run_elsewhere_and_the_worker_comes_back(self) -> None:
        """Cut under load, twice: nothing is lost or dead; what runs twice is what the far worker had begun."""
        with Rig() as rig:
            web, far, network = self.start(rig, seconds=0.001)
            accepted: list[str] = []
            for _ in range(2):
                load = Load(web.port, [b"job"] * 4000)
                load.at(2000, network.pull)
                load.run(30)
                self.assertEqual((load.refused, load.broken), ([], 0))
                accepted += load.accepted
                rig.until_ready(web, 2)
                count = rig.until_all_ran(accepted)
                self.assertEqual(count, Count.all_ran(len(accepted), count.run_twice))
                network.plug()
                rig.until_ready(web, 3)
                ran = len(rig.record(far.port).ended)
                rig.push_in_rounds(web, 3)
                self.assertGreater(len(rig.record(far.port).ended), ran, "it is of no use any more")
            count = rig.count(accepted)
            self.assertEqual(count, Count.all_ran(len(accepted), count.run_twice))
            self.assertLessEqual(ran_twice(rig.lines()), set(rig.record(far.port).begun))
            self.assertEqual(web.log.count("jobs go to other workers"), 2)

    def test_a_job_that_ends_behind_a_cut_is_settled_when_the_network_is_back(self) -> None:
        """The job that the worker runs meanwhile runs elsewhere too; both say so, and it counts once."""
        with Rig() as rig:
            web, far, network = self.start(rig, seconds=0)
            load = Load(web.port, [b"4"] * 3).run(1)
            rig.until("all three have begun", lambda: len(rig.lines()) == 3)
            network.pull()
            rig.until_ready(web, 2)
            count = rig.until_all_ran(load.accepted)
            self.assertEqual(count, Count.all_ran(3, count.run_twice))
            rig.until("the far worker has ended its job", lambda: rig.record(far.port).ended)
            network.plug()
            rig.until_ready(web, 3)
            ran = len(rig.record(far.port).ended)
            rig.push_in_rounds(web, 3)
            self.assertGreater(len(rig.record(far.port).ended), ran, "it is of no use any more")
            self.assertEqual(rig.count(load.accepted), count)


def run(*command: str) -> None:
    """Run it; CalledProcessError when that fails."""
    subprocess.run(command, check=True, capture_output=True)
