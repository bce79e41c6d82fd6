"""A worker that is named twice, by addresses that differ: real sockets, one process."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from tests.peers import a_while, until
from tests.pipeline_kit import PipelineCase
from zpipeline import link
from zpipeline.addresses import parse_address
from zpipeline.pipeline import Pipeline
from zpipeline.protocol import Done, Hello
from zpipeline.stats import WorkerStatus
from zpipeline.worker import Worker

TWIN = "leads to the same worker as"


class Forward(ProxyFactory):
    """A forwarded port.

    :param to: a worker.
    """

    noisy = False

    def __init__(self, to: Worker) -> None:
        self.open: list[ProxyServer] = []
        host, port = parse_address(to.address)
        super().__init__(host, int(port))
        self.listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.address = f"tcp://127.0.0.1:{self.listening.getHost().port}"

    def buildProtocol(self, addr: object) -> ProxyServer:
        server: ProxyServer = super().buildProtocol(addr)
        self.open.append(server)
        return server

    def lead_to(self, worker: Worker) -> None:
        """New connections go to that one; those that are open are cut."""
        self.port = int(parse_address(worker.address)[1])
        self.cut()

    def cut(self) -> None:
        """Break all that is open."""
        for server in self.open:
            if server.transport is not None:
                server.transport.abortConnection()
        self.open.clear()

    def close(self) -> Deferred[None]:
        """Forward no longer."""
        self.cut()
        closed: Deferred[None] = self.listening.stopListening()
        return closed


class TwinTests(PipelineCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(link, "DEADLINE", 0.5)

    def forward(self, to: Worker) -> Forward:
        forward = Forward(to)
        self.addCleanup(forward.close)
        return forward

    def by_address(self, pipeline: Pipeline) -> dict[str, WorkerStatus]:
        return {worker.address: worker for worker in pipeline.workers()}

    async def one_of_two(self, pipeline: Pipeline) -> tuple[str, str]:
        """Wait until one address is used and the other is not: which."""

        def found() -> tuple[str, str] | None:
            used = [worker.address for worker in pipeline.workers() if worker.state == "ready"]
            out = [worker.address for worker in pipeline.workers() if TWIN in (worker.why or "")]
            return (used[0], out[0]) if len(used) == len(out) == 1 else None

        pair: tuple[str, str] = await until(found, "one of two is used")
        return pair

    async def test_one_address_is_used_and_the_other_says_why_not_once(self) -> None:
        worker = self.worker()
        localhost = worker.address.replace("127.0.0.1", "localhost")
        pipeline = self.start(worker, localhost)
        used, out = await self.one_of_two(pipeline)
        await a_while(2.0)  # several times the deadline of a try
        self.assertEqual(await self.one_of_two(pipeline), (used, out))
        self.assertEqual(len(self.log_lines(": ready (")), len(self.log_lines("has given up the session")) + 1)
        self.assertLessEqual(len(self.log_lines("has given up the session")), 1)
        (line,) = self.log_lines(TWIN)
        self.assertIn(f"{out}: {TWIN} {used}, which is used", line)
        self.assertEqual(worker.dropped_messages, 0)

    async def test_a_second_address_that_comes_later_leaves_the_first_one_its_place(self) -> None:
        worker = self.worker()
        forward = self.forward(worker)
        await forward.close()
        pipeline = self.start(worker, forward.address)
        await until(lambda: pipeline.ready_workers == 1)
        port = int(parse_address(forward.address)[1])
        forward.listening = reactor.listenTCP(port, forward, interface="127.0.0.1")
        self.assertEqual(await self.one_of_two(pipeline), (worker.address, forward.address))
        ids = await pipeline.push_many([b"%d" % number for number in range(100)])
        await self.settles(pipeline)
        self.assertEqual([job.id for job in self.ran], ids)
        self.assertEqual(len(self.log_lines(TWIN)), 1)

    async def test_the_second_address_takes_over_when_the_first_is_lost(self) -> None:
        """And keeps its place when that comes back."""
        worker = self.worker()
        first, second = self.forward(worker), self.forward(worker)
        pipeline = self.start(first.address, second.address)
        used, out = await self.one_of_two(pipeline)
        gone = first if used == first.address else second
        await gone.close()
        await until(lambda: self.by_address(pipeline)[out].state == "ready", "the second takes over")
        await pipeline.push(b"job")
        await self.settles(pipeline)
        port = int(parse_address(gone.address)[1])
        gone.listening = reactor.listenTCP(port, gone, interface="127.0.0.1")
        lost = len(self.log_lines("has given up"))
        self.assertEqual(await self.one_of_two(pipeline), (out, used))
        self.assertEqual(len(self.log_lines("has given up")), lost, "it was disturbed though it was known")

    async def test_another_worker_that_is_found_behind_the_second_address_takes_part(self) -> None:
        worker, other = self.worker(), self.worker()
        forward = self.forward(worker)
        pipeline = self.start(worker, forward.address)
        await self.one_of_two(pipeline)
        forward.lead_to(other)
        await until(lambda: pipeline.ready_workers == 2, "both take part")

    async def test_twins_that_were_stopped_and_started_again_are_found_again(self) -> None:
        worker = self.worker()
        localhost = worker.address.replace("127.0.0.1", "localhost")
        pipeline = self.start(worker, localhost)
        await self.one_of_two(pipeline)
        await pipeline.stopService()
        pipeline.startService()
        await self.one_of_two(pipeline)

    async def test_hello_to_a_twin_is_in_the_generation_of_the_session_that_there_is(self) -> None:
        """So that the worker ignores it. This one does not say READY again, as if that was on its way."""
        worker, same = self.by_hand(), self.by_hand()
        same.incarnation = worker.incarnation
        pipeline = self.start(worker, same)
        session = await worker.takes_part()
        await until(lambda: pipeline.ready_workers == 1)
        await same.takes_part()
        first = await worker.gets(Hello, 2)
        worker.ready(first.session)
        await until(lambda: pipeline.ready_workers == 1, "the first is used")
        again = await same.gets(Hello, 2)
        self.assertEqual(again.generation, first.generation)
        self.assertGreater(first.generation, same.have(Hello)[0].generation)
        await pipeline.push(b"job")
        (number,) = await worker.has(1)
        self.assertNotEqual(first.session, session)
        worker.say(Done(first.session, [number]))
        await self.settles(pipeline)
