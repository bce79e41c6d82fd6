"""Only the workers' connection to the sink is cut; the connection that brings them jobs stays up."""

from __future__ import annotations

from twisted.internet import defer, reactor, task
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.protocols.portforward import ProxyFactory
from twisted.trial.unittest import TestCase

from tests.faults.records import Count
from tests.faults.rig import Rig
from zpipeline.pipeline import Pipeline


class Proxy(ProxyFactory):
    """Forwards to the sink, and can cut all connections."""

    noisy = False

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.servers: list[Protocol] = []

    def buildProtocol(self, address: object) -> Protocol:
        server = super().buildProtocol(address)
        self.servers.append(server)
        return server

    @property
    def connected(self) -> int:
        """How many connections there are."""
        return sum(server.transport.connected for server in self.servers)

    def cut(self) -> None:
        """Reset all of them."""
        for server in self.servers:
            if server.transport.connected:
                server.transport.abortConnection()
        self.servers.clear()


class SinkCut(TestCase):
    """With zpipe-worker."""

    example = False
    timeout = 120

    async def start(self, *, seconds: float = 0) -> None:
        self.rig = Rig(self.example)
        self.rig.__enter__()
        self.addCleanup(self.rig.close)
        self.workers = self.rig.pool(seconds=seconds)
        addresses = [f"tcp://127.0.0.1:{worker.port}" for worker in self.workers]
        self.pipeline = Pipeline(reactor, addresses, journal=str(self.rig.folder / "journal.sqlite"))
        self.pipeline.bind()
        sink = self.pipeline._sessions._sink
        self.proxy = Proxy("127.0.0.1", int(sink.address.rsplit(":", 1)[1]))
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.proxy)
        self.addCleanup(listening.stopListening)
        sink.address = f"tcp://127.0.0.1:{listening.getHost().port}"  # what HELLO names
        self.pipeline.startService()
        self.addCleanup(self.pipeline.stopService)
        await self.until(lambda: self.pipeline.ready_workers == 3)

    async def until(self, condition, seconds: float = 60) -> None:
        deadline = reactor.seconds() + seconds
        while not condition():
            if reactor.seconds() > deadline:
                raise AssertionError(f"not within {seconds} seconds\n{self.rig.logs()}")
            await task.deferLater(reactor, 0.01)

    def check(self, ids: list[str]) -> None:
        """All have run, and none is dead."""
        count = self.rig.count(ids)
        self.assertEqual(count, Count.all_ran(len(ids), count.run_twice))

    def test_no_job_is_stuck_and_the_workers_are_of_use_again(self):
        """Cut three times under load: all jobs run, no window leaks away, and all three have their turns after."""
        return defer.Deferred.fromCoroutine(self._cut_three_times())

    async def _cut_three_times(self) -> None:
        await self.start(seconds=0.001)
        ids = []
        for _ in range(3):
            await self.until(lambda: self.pipeline.ready_workers == 3)  # each has its connection, to be cut
            ids += await self.pipeline.push_many([b"job %d" % number for number in range(1500)])
            some = len(ids) - 1200
            await self.until(lambda some=some: sum(self.rig.ended().values()) > some and self.proxy.connected >= 3)
            self.proxy.cut()
        await self.until(lambda: self.pipeline.pending == 0)
        self.check(ids)
        # A READY that went down with the last cut is waited for by the ventilator for ten seconds, and as long again
        # when that comes twice.
        await self.until(lambda: self.pipeline.ready_workers == 3, 25)
        before = [len(self.rig.record(worker.port).ended) for worker in self.workers]
        for turn in range(10):
            await self.pipeline.push_many([b"after %d" % number for number in range(3 * turn, 3 * turn + 3)])
            await self.until(lambda: self.pipeline.pending == 0)
        shares = [len(self.rig.record(w.port).ended) - was for w, was in zip(self.workers, before, strict=True)]
        self.assertEqual(shares, [10, 10, 10])

    def test_a_job_that_ends_while_the_sink_is_cut_is_reported_afterwards(self):
        """A handler of two seconds, and a cut in its midst: the job is settled, though the session was another."""
        return defer.Deferred.fromCoroutine(self._cut_in_a_handler())

    async def _cut_in_a_handler(self) -> None:
        await self.start()
        ids = await self.pipeline.push_many([b"2"] * 3)
        await self.until(lambda: sum(len(r.begun) for r in self.rig.records().values()) == 3)
        await self.until(lambda: self.proxy.connected >= 3)
        self.proxy.cut()
        await self.until(lambda: self.pipeline.pending == 0)
        self.check(ids)


class SinkCutWithTheExample(SinkCut):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True
