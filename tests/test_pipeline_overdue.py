"""When a pipeline gives up a worker for overdue: what it has reported counts, however late it is read."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.peers import a_while, until
from tests.pipeline_kit import PipelineCase
from zpipeline import dispatch
from zpipeline.protocol import Done

TIMEOUT = 0.1
GRACE = 0.4
OVERDUE = "has reported nothing"


async def stand_still(meanwhile: Callable[[], None]) -> None:
    """Serve nothing for longer than a worker may be silent; then what is due comes before what is to be read.

    :param meanwhile: what workers do then.
    """
    over: Deferred[None] = Deferred()

    def stand() -> None:
        meanwhile()
        time.sleep(TIMEOUT + GRACE + 0.5)
        reactor.callLater(0, over.callback, None)

    reactor.callFromThread(stand)  # the first thing that the reactor does in a turn
    await over


class OverdueTests(PipelineCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(dispatch, "GRACE", GRACE)

    async def test_a_worker_that_has_reported_while_the_web_side_stood_still_is_not_overdue(self) -> None:
        pipeline, worker, session = await self.pair(timeout=TIMEOUT, window=2)
        await pipeline.push_many([b"1", b"2"])
        first, _ = await worker.has(2)
        await stand_still(lambda: worker.say(Done(session, [first])))
        await until(lambda: pipeline.pending == 1, "the report is read")
        worker.say(Done(session, [worker.sequences()[1]]))
        await self.settles(pipeline)
        await a_while(1.5)  # whoever was taken for overdue would be judged by now
        self.assertEqual(self.log_lines(OVERDUE), [])
        self.assertEqual(pipeline.ready_workers, 1)

    async def test_a_worker_that_reports_nothing_is_overdue_and_said_so(self) -> None:
        pipeline, worker, _ = await self.pair(timeout=TIMEOUT, window=2)
        await pipeline.push(b"1")
        await worker.has(1)
        await until(lambda: self.log_lines(OVERDUE), "it is given up")
        self.assertEqual(pipeline.ready_workers, 0)

    async def test_the_reactor_is_not_kept_busy_while_an_overdue_worker_is_given_its_second(self) -> None:
        pipeline, worker, _ = await self.pair(timeout=TIMEOUT, window=1)
        await pipeline.push(b"1")
        await worker.has(1)
        looks = 0
        next_deadline = pipeline._dispatcher.next_deadline

        def counted(now: float, at: float, *, overdue: bool = True) -> float | None:
            nonlocal looks
            looks += 1
            return next_deadline(now, at, overdue=overdue)

        self.patch(pipeline._dispatcher, "next_deadline", counted)
        await until(lambda: self.log_lines(OVERDUE), "it is given up")
        self.assertLess(looks, 10)

    async def test_a_session_that_ends_by_what_it_has_reported_is_no_trouble(self) -> None:
        """Both are overdue when the web side goes on, and one of them has given up its session meanwhile."""
        workers = [self.by_hand(), self.by_hand()]
        pipeline = self.start(*workers, timeout=TIMEOUT, window=1)
        for count, worker in enumerate(workers, 1):
            session = await worker.takes_part()
            await until(lambda: pipeline.ready_workers == count, "it is ready")  # noqa: B023
        await pipeline.push_many([b"1", b"2"])
        for worker in workers:
            await worker.has(1)
        await stand_still(lambda: workers[1].ready(session))
        await until(lambda: self.log_lines(OVERDUE), "the silent one is given up")
        self.assertEqual(len(self.log_lines("has given up the session")), 1)
        self.assertIn(workers[0].address, self.log_lines(OVERDUE)[0])
        self.assertEqual(len(self.log_lines(OVERDUE)), 1)
