"""Single pushes: those of one turn of the reactor are accepted as one, which costs each of them a fraction."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from zpipeline.entry import Entry
from zpipeline.job import make_ids
from zpipeline.pipeline.jobs import Jobs


class Gathering:
    """What is pushed into these jobs one by one."""

    def __init__(self, reactor: Any, jobs: Jobs) -> None:
        self._reactor = reactor
        self._jobs = jobs
        self._entries: list[Entry] = []
        self._waiting: list[Deferred[str]] = []
        self._end_of_turn: IDelayedCall | None = None

    def push(self, body: bytes, headers: bytes) -> Deferred[str]:
        """Have this job accepted at the end of the turn: its id, once it is in the store.

        Whoever waits may cancel that: the job is accepted nevertheless.

        :raises Full: there are too many.
        :raises Refused: (by the Deferred) as `zpipeline.store.Store.accept`.
        """
        self._entries += self._jobs.admit([body], headers)
        job_id: Deferred[str] = Deferred()
        self._waiting.append(job_id)
        if self._end_of_turn is None:
            self._end_of_turn = self._reactor.callLater(0, self.flush)
        return job_id

    def flush(self) -> None:
        """Have accepted what has been pushed so far: before anything is that comes later."""
        if self._end_of_turn is None:
            return
        if self._end_of_turn.active():
            self._end_of_turn.cancel()
        self._end_of_turn = None
        entries, self._entries = self._entries, []
        waiting, self._waiting = self._waiting, []
        self._jobs.accept(entries).addCallbacks(self._tell, _refuse, callbackArgs=(waiting,), errbackArgs=(waiting,))

    def _tell(self, numbers: list[int], waiting: list[Deferred[str]]) -> None:
        for job_id, each in zip(make_ids(self._jobs.ventilator, numbers), waiting, strict=True):
            each.callback(job_id)


def _refuse(failure: Failure, waiting: list[Deferred[str]]) -> None:
    for each in waiting:
        each.errback(failure.value)
