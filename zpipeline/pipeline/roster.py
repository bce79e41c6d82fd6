"""The workers by their addresses: in which state each is, and what it has done. Pure: times are parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, field

from zpipeline.entry import Session
from zpipeline.histogram import Timings
from zpipeline.protocol import Ready
from zpipeline.stats import Recent, WorkerLatency, WorkerStatus, differing

_HAS_LEFT = "it was told to stop, and has left"


@define(eq=False)
class Worker:
    """What is known of the worker at one address. See `zpipeline.stats.WorkerStatus`.

    :ivar ready: what it last said of itself; None before that.
    :ivar timings: what it has measured.
    :ivar session_timings: of these, in its newest session, as it last told.
    :ivar has_left: whether it was leaving when it was lost.
    """

    address: str
    since: float
    state: str = "connecting"
    ready: Ready | None = None
    done: int = 0
    failed: int = 0
    returned: int = 0
    timings: Timings = field(factory=Timings)
    session_timings: Timings = field(factory=Timings)
    has_left: bool = False
    recent: Recent = field(factory=Recent)

    def is_ready(self, ready: Ready | None, at: float) -> None:
        """It takes part, in a new session.

        :param ready: what it says of itself, if it can.
        """
        self._change("ready", at)
        self.ready = ready
        self.session_timings = Timings()

    def leaves(self, at: float) -> None:
        """It has said BYE."""
        if self.state == "ready":
            self._change("leaving", at)

    def is_lost(self, at: float) -> None:
        """Its session is over."""
        self.has_left = self.state == "leaving"
        self._change("lost", at)

    def _change(self, state: str, at: float) -> None:
        self.state = state
        self.since = at

    def measured(self, timings: Timings) -> Timings:
        """It has told what it measured in this session: what of that is new.

        :raises ValueError: it cannot be: there was more before.
        """
        new = timings.since(self.session_timings)
        self.session_timings = timings
        self.timings.add(new)
        return new

    def tick(self, now: float) -> None:
        """A second has begun."""
        start, run = tuple(self.timings.start.counts), tuple(self.timings.run.counts)
        self.recent.note(now, {"done": (self.done,), "start": start, "run": run})

    def status(self, session: Session | None, trouble: str | None, done_by_all: int) -> WorkerStatus:
        """All of it.

        :param session: in which it takes part now.
        :param trouble: why there is no connection.
        :param done_by_all: jobs that all workers have done in the time that `recent` knows of.
        """
        ready = self.ready
        why = None
        if session is None:
            why = _HAS_LEFT if self.has_left else trouble
        concurrency = None if ready is None else ready.concurrency
        recent = self.recent
        return WorkerStatus(
            self.address,
            self.state,
            why,
            self.since,
            None if ready is None else ready.host,
            None if ready is None else ready.pid,
            None if ready is None else ready.version,
            None if ready is None else ready.handler,
            concurrency if session is None or ready is None else session.window.concurrency,
            None if session is None else session.window.in_use,
            0 if session is None else len(session.in_flight),
            self.done,
            self.failed,
            self.returned,
            sum(recent.grown("done")) / done_by_all if done_by_all else 0.0,
            recent.rate("done"),
            WorkerLatency(recent.percentiles("start"), recent.percentiles("run")),
        )


class Roster:
    """All workers.

    :param addresses: of them.
    :param at: now, in seconds since the epoch.
    """

    def __init__(self, addresses: Iterable[str], at: float) -> None:
        self._workers = {address: Worker(address, at) for address in addresses}
        self._handlers: dict[str, str] = {}  # of those that were ready, as far as `new_difference` has looked

    def __getitem__(self, address: str) -> Worker:
        return self._workers[address]

    def tick(self, now: float) -> None:
        """A second has begun."""
        for worker in self._workers.values():
            worker.tick(now)

    def new_difference(self) -> str | None:
        """How the handlers of ready workers differ (`zpipeline.stats.differing`); None when nothing of that is new.

        A worker that comes back with the handler that it had is nothing new.
        """
        workers = self._workers.items()
        ready = {address: it.ready.handler for address, it in workers if it.state == "ready" and it.ready is not None}
        before, self._handlers = self._handlers, self._handlers | ready
        return None if before == self._handlers else differing(ready.items())

    def statuses(self, now: Mapping[str, tuple[Session | None, str | None]]) -> list[WorkerStatus]:
        """All of them.

        :param now: of each address that there is a link to: its session, and why there is no connection.
        """
        done_by_all = sum(sum(worker.recent.grown("done")) for worker in self._workers.values())
        return [
            worker.status(*now.get(address, (None, None)), done_by_all) for address, worker in self._workers.items()
        ]
