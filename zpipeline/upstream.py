"""One ventilator, as a worker sees it: its newest session, and the way to its sink.

Rules 3, 4 and 6 of docs/protocol.rst. Each HELLO of a higher generation opens a new session, on a new connection
to the sink. What has been done is reported in whatever session is the newest; what could not be reported for want of
a connection is kept and reported on the next one, before READY.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

from twisted.python.failure import Failure

from zpipeline import protocol
from zpipeline.histogram import Timings
from zpipeline.job import Job
from zpipeline.link import Link
from zpipeline.outcomes import to_failed, to_result
from zpipeline.sockets import LINGER_MS, Factory

#: A sink that cannot be reached for so long is forgotten: its ventilator has to say HELLO again.
FORGET_AFTER = 600.0

_MAX_KEPT = 1_000_000  # jobs done that could not be reported


class UpstreamOwner(Protocol):
    """The worker."""

    def make_ready(self, session: int) -> protocol.Ready:
        """What READY says."""

    def drop(self, upstream: Upstream) -> None:
        """Forget the jobs of this upstream that have not been begun."""

    def ended(self, upstream: Upstream) -> None:
        """There will be nothing more from this ventilator, unless it says HELLO anew."""


class Upstream:
    """One ventilator. It is the `zpipeline.runner.Origin` of its jobs.

    :ivar session: the newest one.
    :ivar generation: of that session.
    :ivar timeout: how many seconds an attempt may take of a job that comes in it; None: any time.
    :ivar takes_jobs: whether that session has not been given up.
    """

    def __init__(self, reactor: Any, factory: Factory, ventilator: int, owner: UpstreamOwner) -> None:
        self.ventilator = ventilator
        self.generation = -1
        self.session = 0
        self.timeout: float | None = None
        self.takes_jobs = False
        self.takes_back = True
        self._reactor = reactor
        self._factory = factory
        self._owner = owner
        self._link: Link | None = None
        self._connected = False
        self._broken_since = monotonic()
        self._leaving = False
        self._received = 0
        self._sent = 0
        self._timings = Timings()
        self._done: list[tuple[int, protocol.Result]] = []
        self._on_its_way = 0  # of those in _done, said on a connection that is not there yet
        self._failed: list[protocol.Failed] = []

    @property
    def broken_for(self) -> float:
        """For how many seconds its sink has not been reached; 0 when it is."""
        return 0.0 if self._connected else monotonic() - self._broken_since

    def open(self, hello: protocol.Hello, sink: str) -> None:
        """Begin a session, in place of the one before.

        :param sink: the address of `hello`, its wildcard replaced.
        """
        self.give_up_session()
        if self._link is not None:
            self._link.stop(LINGER_MS)
        self._connected = False
        self._broken_since = monotonic()
        self.generation = hello.generation
        self.session = hello.session
        self.timeout = hello.timeout
        self.takes_jobs = True
        self.takes_back = hello.window is None
        self._received = 0
        self._timings = Timings()
        self._link = Link(self._reactor, self._factory, sink, self)
        self._link.start()

    def give_up_session(self) -> None:
        """Forget what has not been begun, and say so: the ventilator hands it on, and opens another session."""
        self._owner.drop(self)
        if self.takes_jobs and self._link is not None:
            self._flush()
            # also while it connects: the READY that is queued may be read before the handshake is heard of here
            self._link.send(protocol.encode(self._owner.make_ready(self.session)))
        self.takes_jobs = False

    def close(self) -> None:
        """The session is over: CLOSE has come, or there is no point in going on."""
        if self._link is not None:
            self._flush()
            self._link.stop(LINGER_MS)
            self._link = None
            self._connected = False
            self._owner.drop(self)
            self._owner.ended(self)

    def leave(self) -> None:
        """Say BYE, and go on until CLOSE; without a session that is alive there is nobody to wait for."""
        self._leaving = True
        if self.takes_jobs and self._connected and self._link is not None:
            self._flush()
            self._link.send(protocol.encode(protocol.Bye(self.session)))
        else:
            self.close()

    def jobs_came(self, count: int) -> None:
        """Count jobs of this session."""
        self._received += count

    def say_state(self, concurrency: int, held: Mapping[int, int] | None) -> None:
        """STATE.

        :param held: how many jobs are here of each session; None when that is not known now.
        """
        if self.takes_jobs and self._connected and self._link is not None:
            self._flush()
            here = None if held is None else held.get(self.session, 0)
            state = protocol.State(self.session, concurrency, self._received, self._sent, self._timings, here)
            self._link.send(protocol.encode(state))

    # Origin

    def done(self, jobs: list[Job], results: list[Any]) -> None:
        """Report them with the next `report`."""
        if len(self._done) < _MAX_KEPT:
            self._done += [
                (job.key[1], None if result is None else to_result(result, job.id))
                for job, result in zip(jobs, results, strict=True)
            ]

    def failed(self, job: Job, failure: Failure) -> None:
        """Report it with the next `report`."""
        self._failed.append(to_failed(job, failure))

    def returned(self, jobs: list[Job]) -> None:
        """Give them back at once."""
        if self._connected and self._link is not None:
            self._link.send(protocol.encode(protocol.Returned(self.session, [job.key[1] for job in jobs])))
            self._sent += 1

    def report(self, timings: Timings) -> None:
        """Say what was done or failed."""
        self._timings.add(timings)
        if self._connected:
            self._flush()

    def _flush(self) -> None:
        if self._link is None or not self._connected:
            return
        for failed in self._failed:
            if failed.session == self.session:  # in an older session, it is nobody's any more
                self._link.send(protocol.encode(failed))
                self._sent += 1
        self._failed.clear()
        self._say_done()
        self._done.clear()

    def _say_done(self) -> None:
        assert self._link is not None
        for batch in _batches(self._done):
            results = [result for _, result in batch]
            if all(result is None for result in results):
                results = []
            self._link.send(protocol.encode(protocol.Done(self.session, [number for number, _ in batch], results)))
            self._sent += 1

    # LinkOwner

    def link_opened(self, link: Link) -> None:
        """Queue what goes out first: what was done meanwhile, then READY."""
        self._say_done()
        self._on_its_way = len(self._done)
        ready = protocol.encode(self._owner.make_ready(self.session))
        link.send(ready)
        if not self.takes_jobs:
            link.send(ready)  # if what gave the session up was lost with the connection, one READY would revive it
        self._sent = 0

    def link_connected(self, link: Link) -> None:
        """The sink is reached."""
        link.meets_deadline()
        self._connected = True
        del self._done[: self._on_its_way]
        self._flush()

    def link_lost(self, link: Link) -> None:
        """The way to the sink is broken: give up what has not been begun."""
        if self._connected:
            self._connected = False
            self._broken_since = monotonic()
        self._failed.clear()
        self._owner.drop(self)
        if self._leaving or self.broken_for > FORGET_AFTER:
            self.close()

    def link_writable(self, link: Link) -> None:
        """The high-water mark is above all that is sent: the socket took nothing for want of a connection."""


def _batches(done: list[tuple[int, protocol.Result]]) -> list[list[tuple[int, protocol.Result]]]:
    """Cut what was done into what one message should hold."""
    if all(result is None for _, result in done):
        most = protocol.MAX_JOBS_IN_MESSAGE
        return [done[start : start + most] for start in range(0, len(done), most)]
    batches: list[list[tuple[int, protocol.Result]]] = []
    size = 0
    for item in done:
        length = _size(item[1])
        size += length
        if not batches or len(batches[-1]) == protocol.MAX_JOBS_IN_MESSAGE or size > protocol.MAX_BYTES_IN_MESSAGE:
            batches.append([])
            size = length
        batches[-1].append(item)
    return batches


def _size(result: protocol.Result) -> int:
    """Of a result, in bytes."""
    return max(0, len(protocol.pack_result(result)) - 1)
