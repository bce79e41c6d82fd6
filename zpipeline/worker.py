"""`Worker`: the PULL consumer, to be embedded in a Twisted application or run by ``twistd zpipe-worker``."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count, repeat
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline import protocol
from zpipeline._version import __version__
from zpipeline.addresses import WILDCARDS, make_address, parse_address
from zpipeline.callers import CallerWatch
from zpipeline.closing import Closing
from zpipeline.errors import ProtocolError, UsageError
from zpipeline.forks import ForkGuard
from zpipeline.freeze import FreezeWatch
from zpipeline.handlers import Handler, check_handler, name_of
from zpipeline.histogram import Timings
from zpipeline.job import Job
from zpipeline.outcomes import traceback_of
from zpipeline.runner import Delivery, Runner
from zpipeline.sockets import Factory, Pull
from zpipeline.steady import steady
from zpipeline.text import printable_lines
from zpipeline.upstream import Upstream

DEFAULT_ADDRESS = "tcp://127.0.0.1:4444"
CONCURRENCY = 10
DRAIN = 30.0

_STATE_INTERVAL = 1.0
_MAX_VENTILATORS = 256
_DRAIN_PULL_SECONDS = 0.05

#: Jobs of plain peers that may be here, and their bytes together: while there are more, nothing is read.
MOST_PLAIN_JOBS = 10_000
MOST_PLAIN_BYTES = 64 << 20

log = Logger()


class Worker(Service):
    """Runs the jobs that ventilators, or plain ZeroMQ PUSH sockets, send to its address.

    :param reactor: the reactor that it runs on.
    :param handler: what runs a job: plain, ``async``, or returning a Deferred (`zpipeline.handlers.Handler`).
    :param address: where it listens, ``tcp://HOST:PORT``; a port of ``*`` takes a free one.
    :param concurrency: how many jobs run at once, where the handler is not plain.
    :param threads: run a blocking handler in a pool of that many threads; 0: in the reactor.
    :param drain: how many seconds stopping waits for the jobs that are here.
    :param name: the handler's name, for the ventilators' logs.
    :raises UsageError: the address or a number cannot work.
    :raises HandlerError: calling the handler would run nothing.
    """

    def __init__(
        self,
        reactor: Any,
        handler: Handler,
        address: str = DEFAULT_ADDRESS,
        *,
        concurrency: int = CONCURRENCY,
        threads: int = 0,
        drain: float = DRAIN,
        name: str | None = None,
    ) -> None:
        parse_address(address, bound=True)
        if concurrency < 1 or threads < 0:
            raise UsageError("concurrency is 1 or more, threads 0 or more")
        check_handler(handler, name or name_of(handler), in_threads=threads > 0)
        self._guard = ForkGuard(reactor, self._addresses)
        self._reactor = reactor = steady(reactor)
        self._address = address
        self._drain_seconds = drain
        self._name = name or name_of(handler)
        self._incarnation = secrets.randbits(64)
        self._plain_keys = zip(repeat(self._incarnation), count(1))
        self._plain: _Plain | None = None
        self._runner = Runner(reactor, handler, self, concurrency=concurrency, threads=threads)
        self._upstreams: dict[int, Upstream] = {}
        self._state_call = LoopingCall(self._say_state)
        self._state_call.clock = reactor
        self._factory: Factory | None = None
        self._pull: Pull | None = None
        self._watch: FreezeWatch | None = None
        self._callers = CallerWatch(reactor, lambda: self.address)
        self._bad_hosts: set[str | None] = set()
        self._stopping: Deferred[None] | None = None
        self._finished: Deferred[None] | None = None
        self._asked_at: float | None = None
        #: After stopping: whether jobs were here still, or ventilators that had not been told what became of theirs.
        self.left_undone = False
        #: Messages that broke the protocol, or came for a session that is over.
        self.dropped_messages = 0

    # What it does

    @property
    def jobs_ended(self) -> Mapping[str, int]:
        """What became of jobs here: how many were ``"done"``, ``"failed"``, and ``"returned"``, not begun."""
        runner = self._runner
        return {"done": runner.done, "failed": runner.failed, "returned": runner.returned}

    @property
    def jobs_waiting(self) -> int:
        """How many jobs are here that are not begun."""
        return self._runner.waiting

    @property
    def jobs_running(self) -> int:
        """How many jobs are under way."""
        return self._runner.running

    @property
    def ventilators(self) -> int:
        """How many ventilators it works for."""
        return len(self._upstreams)

    @property
    def timings(self) -> Timings:
        """How long jobs took to be begun, and to be run."""
        return self._runner.timings

    # Starting and stopping

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address if self._pull is None else self._pull.address

    def bind(self) -> None:
        """Bind the address; `startService` does so too. Call it first to learn of a port that is taken.

        :raises UsageError: the address cannot be bound.
        """
        factory = Factory(self._reactor)
        try:
            self._pull = Pull(factory, self._address, self._received, self._has_broken_protocol)
        except UsageError:
            factory.close()
            raise
        self._factory = factory
        self._plain = _Plain(self._plain_keys, self._pull.hold)

    def startService(self) -> None:
        """Listen, and take jobs."""
        super().startService()
        self._stopping = self._asked_at = None
        self.left_undone = False
        if self._pull is None:
            self.bind()
        self._guard.start()
        self._runner.start()
        self._watch = FreezeWatch()
        self._state_call.start(_STATE_INTERVAL, now=False)
        self._callers.start()
        log.info("worker at {address}, handler {handler}", address=self.address, handler=self._name)

    def asked_to_leave(self) -> None:
        """From now on `drain` counts: `stopService` is called when a handler that blocks the reactor lets it."""
        self._asked_at = time.monotonic()

    def stopService(self) -> Deferred[None]:
        """Leave: say so to the ventilators, run what is here, and end when they know, or after `drain` seconds.

        :returns: fires when everything is closed.
        :raises NotClosed: (by the Deferred) some of it failed; all else is closed nevertheless.
        """
        if self._stopping is None:
            super().stopService()
            self._stopping = Deferred.fromCoroutine(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        assert self._pull is not None and self._factory is not None
        closing = Closing()
        self._callers.stop()
        self._finished = Deferred()
        for upstream in list(self._upstreams.values()):
            await closing.close("the session of a ventilator", upstream.leave)
        waited = 0.0 if self._asked_at is None else time.monotonic() - self._asked_at
        timeout = self._reactor.callLater(max(0.0, self._drain_seconds - waited), self._give_up_waiting)
        # One look later: what plain peers have sent is read before it is said that there is nothing more.
        self._reactor.callLater(0, self._check_finished)
        await self._finished
        self._finished = None
        if timeout.active():
            timeout.cancel()
        await closing.close("the runner of jobs", self._runner.stop)
        if self._watch is not None:
            await closing.close("the watch for freezes", self._watch.stop)
        if self._state_call.running:
            self._state_call.stop()
        for upstream in list(self._upstreams.values()):
            await closing.close("the connection to a ventilator", upstream.close)
        factory, self._factory, self._pull = self._factory, None, None
        await closing.close("the sockets", factory.close)
        self._guard.stop()
        closing.check()

    def _give_up_waiting(self) -> None:
        log.warn("leaving with work undone, {drain} seconds after it was asked to", drain=self._drain_seconds)
        self.left_undone = True
        if self._finished is not None:
            self._finished.callback(None)

    def _addresses(self) -> Iterator[str]:
        """Where its ZeroMQ sockets listen, or are connected to."""
        yield self.address
        for connection in self._factory.connections if self._factory is not None else ():
            for endpoint in connection.endpoints:
                if endpoint.address.startswith("tcp:"):
                    yield endpoint.address

    def _check_finished(self) -> None:
        if self._finished is None or self._finished.called or self._pull is None:
            return
        self._pull.drain(_DRAIN_PULL_SECONDS)
        # A CLOSE that was just read may have led here already.
        if self._runner.idle and not self._upstreams and self._finished is not None:
            self._finished.callback(None)

    # What arrives

    def _received(self, frames: list[bytes], peer: Callable[[], str | None]) -> None:
        if protocol.is_plain(frames):
            self._callers.stop()
            assert self._plain is not None
            self._runner.add([self._plain.job(frames)])
            return
        try:
            message = protocol.decode_for_worker(frames)
            match message:
                case protocol.Hello():
                    self._hello(message, peer)
                case protocol.Jobs():
                    self._jobs(message)
                case protocol.Close():
                    self._of_session(message.session).close()
        except ProtocolError as error:
            self._has_broken_protocol(error, peer())

    def _hello(self, hello: protocol.Hello, peer: Callable[[], str | None]) -> None:
        self._callers.stop()
        sink = _reachable(hello.sink, peer())
        self._give_up_after_freeze()  # now: the session that begins here is not one that was frozen
        upstream = self._upstreams.get(hello.ventilator)
        if self._stopping is not None or self._factory is None:
            if upstream is not None and hello.generation > upstream.generation:
                upstream.close()  # its ventilator has given up the session that we wait for
            return
        if upstream is None:
            self._make_room()
            upstream = Upstream(self._reactor, self._factory, hello.ventilator, self)
            self._upstreams[hello.ventilator] = upstream
        if hello.generation > upstream.generation:
            upstream.open(hello, sink)

    def _make_room(self) -> None:
        if len(self._upstreams) < _MAX_VENTILATORS:
            return
        worst = max(self._upstreams.values(), key=lambda upstream: upstream.broken_for)
        if worst.broken_for == 0.0:
            raise ProtocolError(f"there are {_MAX_VENTILATORS} ventilators already")
        worst.close()

    def _jobs(self, jobs: protocol.Jobs) -> None:
        upstream = self._of_session(jobs.session)
        upstream.jobs_came(len(jobs.sequences))
        keys = zip(repeat(upstream.ventilator), jobs.sequences)
        columns = zip(keys, jobs.bodies, jobs.headers, jobs.attempts, jobs.accepted_at, strict=True)
        delivery = Delivery(upstream, jobs.session, time.monotonic(), upstream.timeout)
        self._runner.add([Job(*column, None, delivery) for column in columns])

    def _of_session(self, session: int) -> Upstream:
        for upstream in self._upstreams.values():
            if upstream.session == session and upstream.takes_jobs:
                return upstream
        raise ProtocolError("it names a session that is over, or none of ours")

    def _has_broken_protocol(self, error: ProtocolError, host: str | None) -> None:
        self.dropped_messages += 1
        if host not in self._bad_hosts and len(self._bad_hosts) < 1000:
            self._bad_hosts.add(host)
            log.warn("a message from {host} is dropped: {error} (said once for each host)", host=host, error=error)

    # UpstreamOwner

    def make_ready(self, session: int) -> protocol.Ready:
        """READY, for that session."""
        return protocol.Ready(
            session,
            self._incarnation,
            self._runner.concurrency,
            socket.gethostname(),
            os.getpid(),
            self._name,
            __version__,
        )

    def drop(self, upstream: Upstream) -> None:
        """Forget its jobs that have not been begun."""
        self._runner.drop(upstream)

    def ended(self, upstream: Upstream) -> None:
        """That ventilator is gone."""
        del self._upstreams[upstream.ventilator]
        if self.running and not self._upstreams:
            self._callers.start()
        self._check_finished()

    # RunnerOwner

    def concurrency_changed(self) -> None:
        """The handler has turned out to be asynchronous: say so to the ventilators."""
        self._say_state()

    def before_slice(self) -> None:
        """See to a freeze."""
        self._give_up_after_freeze()

    def _give_up_after_freeze(self) -> None:
        """What was not begun has been handed to others."""
        if self._watch is not None and self._watch.has_thawed():
            log.warn("this process was stopped for a while: what it had not begun is left to others")
            for upstream in self._upstreams.values():
                upstream.give_up_session()

    def before_giving_back(self) -> None:
        """Read all that is here."""
        if self._pull is not None:
            self._pull.drain(_DRAIN_PULL_SECONDS)

    def became_idle(self) -> None:
        """There is nothing more to run."""
        self._check_finished()

    def _say_state(self) -> None:
        held = self._runner.held()
        for upstream in self._upstreams.values():
            upstream.say_state(self._runner.concurrency, held)


class _Plain:
    """Where jobs of plain ZeroMQ peers come from: nobody can be told what becomes of them.

    :param keys: what their ids are made of.
    :param hold: called with True when too many are here, and with False when half of them have ended: what comes is
        left to libzmq meanwhile, which holds back who sends it.
    """

    takes_back = False

    def __init__(self, keys: Iterator[tuple[int, int]], hold: Callable[[bool], None]) -> None:
        self._keys = keys
        self._hold = hold
        self._jobs = 0
        self._bytes = 0
        self._is_full = False
        self._was_full = False

    def job(self, frames: list[bytes]) -> Job:
        """A job of these frames; its body is the last of them."""
        self._jobs += 1
        self._bytes += sum(map(len, frames))
        if not self._is_full and self._is_over(MOST_PLAIN_JOBS, MOST_PLAIN_BYTES):
            self._is_full = True
            self._say()
            self._hold(True)
        return Job(
            next(self._keys),
            frames[-1],
            frames=tuple(frames),
            accepted_at=time.time(),
            delivery=Delivery(self, 0, time.monotonic()),
        )

    def _is_over(self, jobs: int, size: int) -> bool:
        return self._jobs >= jobs or self._bytes >= size

    def _say(self) -> None:
        if not self._was_full:
            self._was_full = True
            log.warn(
                "{jobs} jobs of plain peers, {size} bytes, wait here: until half of them have run, nothing is read, "
                "from ventilators either (said once)",
                jobs=self._jobs,
                size=self._bytes,
            )

    def _have_ended(self, jobs: list[Job]) -> None:
        self._jobs -= len(jobs)
        self._bytes -= sum([len(frame) for job in jobs for frame in job.frames])
        if self._is_full and not self._is_over(MOST_PLAIN_JOBS // 2, MOST_PLAIN_BYTES // 2):
            self._is_full = False
            self._hold(False)

    def done(self, jobs: list[Job], results: list[Any]) -> None:
        self._have_ended(jobs)

    def failed(self, job: Job, failure: Failure) -> None:
        self._have_ended([job])
        where = printable_lines(traceback_of(failure))
        log.error("plain job {id} failed:\n{traceback}", id=job.id, traceback=where)

    def returned(self, jobs: list[Job]) -> None:
        pass

    def report(self, timings: Timings) -> None:
        pass


def _reachable(sink: str, peer: str | None) -> str:
    """The sink's address, with the host that the message came from in place of a wildcard."""
    try:
        host, port = parse_address(sink, bound=True)
        if host in WILDCARDS and peer:
            sink = make_address(peer, port)
        parse_address(sink)
    except UsageError as error:
        raise ProtocolError(f"its sink: {error}") from None
    return sink
