"""Pipelines for tests, with workers and against a worker that a test plays by hand: real sockets, one process."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from typing import Any

from twisted.internet import reactor

from tests.peers import ANY_PORT, Case, HandWorker, until
from zpipeline import protocol
from zpipeline.job import Job, JobStatus
from zpipeline.link import Link
from zpipeline.pipeline import Pipeline
from zpipeline.protocol import Failed
from zpipeline.worker import Worker

LONG = 60.0  # seconds: so long nothing here takes
HOUR = 3600.0


def free_address() -> str:
    """Where nobody listens. Not of a ZeroMQ socket that was closed: that goes on listening for a moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class PipelineCase(Case):
    """Pipelines and workers that are stopped in the end."""

    def setUp(self) -> None:
        super().setUp()
        self.ran: list[Job] = []
        self.patch(Link.__init__.__globals__["Backoff"], "next", lambda backoff: 0.02)

    def make(self, *workers: Any, **options: Any) -> Pipeline:
        addresses = [worker if isinstance(worker, str) else worker.address for worker in workers]
        return Pipeline(reactor, addresses, **{"drain": 0.0, "journal": None, **options})

    def start(self, *workers: Any, **options: Any) -> Pipeline:
        pipeline = self.make(*workers, **options)
        pipeline.startService()
        self.addCleanup(self.stop, pipeline)
        return pipeline

    async def stop(self, service: Any) -> None:
        if service.running:
            await service.stopService()

    def worker(self, handler: Any = None, address: str = ANY_PORT, **options: Any) -> Worker:
        worker = Worker(reactor, handler or self.ran.append, address, **{"drain": 5.0, **options})
        worker.startService()
        self.addCleanup(self.stop, worker)
        return worker

    def by_hand(self) -> HandWorker:
        return HandWorker(self.context)

    async def status(self, pipeline: Pipeline, job_id: str) -> JobStatus:
        status = await pipeline.job(job_id)
        assert status is not None
        return status

    async def state(self, pipeline: Pipeline, job_id: str) -> str:
        return (await self.status(pipeline, job_id)).state

    async def settles(self, pipeline: Pipeline) -> None:
        await until(lambda: not pipeline.pending, "all jobs are settled")

    async def pair(self, **options: Any) -> tuple[Pipeline, HandWorker, int]:
        """A pipeline, one worker by hand that is ready, and their session."""
        worker = self.by_hand()
        pipeline = self.start(worker, **options)
        session = await worker.takes_part()
        await until(lambda: pipeline.ready_workers == 1)
        return pipeline, worker, session

    def number(self, job_id: str) -> int:
        return int(job_id[16:], 16)


class JournalCase(PipelineCase):
    """Pipelines on one journal."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)
        self.path: str | None = os.path.join(self.folder, "jobs.sqlite")

    def make(self, *workers: Any, **options: Any) -> Pipeline:
        return super().make(*workers, **{"journal": self.path, **options})

    async def again(self, pipeline: Pipeline, *workers: Any, **options: Any) -> Pipeline:
        """Stop it, and start another on the same journal."""
        await pipeline.stopService()
        return self.start(*workers, **options)

    def fails(self, worker: HandWorker, session: int, number: int, *, delay: float = 0.0) -> None:
        worker.say(Failed(session, number, protocol.RETRY, delay, "ValueError: no", "Traceback of it"))

    def rejects(self, worker: HandWorker, session: int, number: int, reason: str = "no") -> None:
        worker.say(Failed(session, number, protocol.REJECT, protocol.NO_DELAY, reason, "Traceback of it"))

    def read(self, statement: str) -> list[tuple[Any, ...]]:
        """What is committed in the journal, as another program sees it."""
        assert self.path is not None
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def hold_up(self) -> sqlite3.Connection:
        """Keep the journal from being written, until this connection commits."""
        assert self.path is not None
        other = sqlite3.connect(self.path, isolation_level=None, timeout=LONG)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        return other


class MemoryCase(JournalCase):
    """The same, without a journal."""

    def setUp(self) -> None:
        super().setUp()
        self.path = None
