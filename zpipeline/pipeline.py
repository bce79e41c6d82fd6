"""`Pipeline`: the ventilator, to be embedded in a web application or run by ``twistd zpipe-web``."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from zpipeline import protocol
from zpipeline.addresses import parse_address
from zpipeline.dispatch import Dispatcher, Entry, Session
from zpipeline.errors import Draining, ProtocolError, Refused, TooLarge, UsageError
from zpipeline.job import JobStatus, check_body, encode_headers, make_id, parse_id
from zpipeline.link import Link, State
from zpipeline.memory import Settled
from zpipeline.sockets import HIGH_WATER_MARK, LINGER_MS, Factory, Pull
from zpipeline.window import MAX_WINDOW

DEFAULT_WORKERS = ("tcp://127.0.0.1:4444", "tcp://127.0.0.1:4445", "tcp://127.0.0.1:4446")
DEFAULT_SINK = "tcp://127.0.0.1:*"
MAX_PENDING = 100_000
MAX_PENDING_BYTES = 1 << 30
MAX_BODY = 1 << 20
KEPT = 100_000
DRAIN = 30.0

#: How long reports that are here already are read before a session is given up for lost.
_DRAIN_SINK_SECONDS = 0.25
_PAST_SESSIONS = 10_000
_PLAIN_HIGH_WATER_MARK = 1000  # ZeroMQ's own default

log = Logger()


class Pipeline(Service):
    """Hands jobs to workers, and sees to it that each is run.

    :param reactor: the reactor that it runs on.
    :param workers: the workers' addresses (``tcp://HOST:PORT``). They may come, go and come back at any time.
    :param sink: where workers report to; a port of ``*`` takes a free one. For workers on other machines
        name an address that they reach, or ``tcp://*:PORT``.
    :param max_pending: how many jobs may be unsettled.
    :param max_pending_bytes: how many bytes their bodies may have together.
    :param max_body: how many bytes one body may have.
    :param window: jobs in flight at each worker; None lets each window size itself (`zpipeline.window`).
    :param drain: how many seconds stopping waits for jobs to settle.
    :param plain: send each job as one plain frame to whatever PULL sockets are there: at most once, unacknowledged.
    :raises UsageError: an address or a number cannot work.
    """

    def __init__(
        self,
        reactor: Any,
        workers: Iterable[str] = DEFAULT_WORKERS,
        *,
        sink: str = DEFAULT_SINK,
        max_pending: int = MAX_PENDING,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        max_body: int = MAX_BODY,
        window: int | None = None,
        drain: float = DRAIN,
        plain: bool = False,
    ) -> None:
        self._reactor = reactor
        self._workers = _check_workers(workers)
        parse_address(sink, bound=True)
        if window is not None and not 1 <= window <= MAX_WINDOW:
            raise UsageError(f"a window is from 1 to {MAX_WINDOW} jobs, not {window}")
        self._sink_address = sink
        self._fixed_window = window
        self.max_body = max_body
        self._drain_seconds = drain
        self._plain = plain
        self._ventilator = secrets.randbits(64)
        self._sequences = count(1)
        self._generations = count(1)
        self._dispatcher = Dispatcher(
            max_pending=max_pending,
            max_bytes=max_pending_bytes,
            window=MAX_WINDOW if plain else window,
        )
        self._settled = Settled(KEPT)
        self._links: list[Link] = []
        self._sessions: dict[int, Link] = {}
        self._past: OrderedDict[int, None] = OrderedDict()  # sessions that were lost, for what comes late
        self._factory: Factory | None = None
        self._sink: Pull | None = None
        self._bad_hosts: set[str | None] = set()
        self._wakeup: IDelayedCall | None = None
        self._stopping: Deferred[None] | None = None
        self._empty: Deferred[None] | None = None
        #: Messages that broke the protocol.
        self.bad_messages = 0

    # What users call

    def push(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[str]:
        """Have a worker run one job.

        :param body: its content.
        :param headers: str to str; names are lowered.
        :returns: the job's id, once it is accepted.
        :raises Full: (as all of these, by the Deferred) the bound on unsettled jobs is reached.
        :raises Draining: the pipeline is being stopped.
        :raises TooLarge: the body is larger than `max_body`.
        :raises UsageError: the body is not bytes, or the headers are not str to str.
        """
        try:
            return succeed(self._accept([body], headers)[0])
        except (Refused, UsageError):
            return fail()

    def push_many(self, bodies: Iterable[bytes], headers: Mapping[str, str] | None = None) -> Deferred[list[str]]:
        """Have workers run one job for each body: all are accepted or none.

        :param bodies: the jobs' contents.
        :param headers: the same for each of them.
        :returns: the jobs' ids, in order, once all are accepted.
        :raises Refused: (by the Deferred) as for `push`.
        """
        try:
            return succeed(self._accept(list(bodies), headers))
        except (Refused, UsageError):
            return fail()

    def job(self, job_id: str) -> Deferred[JobStatus | None]:
        """What is known of a job; None when it is unknown, or settled so long ago that it is forgotten."""
        ventilator, sequence = parse_id(job_id) or (None, 0)
        entry = self._dispatcher.entry(sequence) or self._settled.get(sequence)
        return succeed(_status(job_id, entry) if entry and ventilator == self._ventilator else None)

    @property
    def ready_workers(self) -> int:
        """How many workers take part now."""
        return self._dispatcher.ready_workers

    @property
    def accepting(self) -> bool:
        """Whether a job would be accepted now."""
        return self._stopping is None and not self._dispatcher.full

    @property
    def draining(self) -> bool:
        """Whether the pipeline is being stopped."""
        return self._stopping is not None

    @property
    def pending(self) -> int:
        """How many jobs are accepted and not settled."""
        return self._dispatcher.pending

    # Starting and stopping

    def bind(self) -> None:
        """Bind the sink; `startService` does so too. Call it first to learn of a port that is taken.

        :raises UsageError: the sink's address cannot be bound.
        """
        factory = Factory(self._reactor)
        self._sink = Pull(factory, self._sink_address, self._received)
        self._factory = factory

    def startService(self) -> None:
        """Connect to the workers, as they come."""
        super().startService()
        self._stopping = None
        if self._sink is None:
            self.bind()
        assert self._factory is not None and self._sink is not None
        silence = (
            f"connected, but its reports do not reach {self._sink.address}: is that address reachable from the "
            "worker (see --sink)? For a plain PULL socket use --plain"
        )
        for address in self._workers:
            link = Link(
                self._reactor,
                self._factory,
                address,
                self,
                # any PULL socket stops answering heartbeats at its own high-water mark
                heartbeats=not self._plain,
                high_water_mark=_PLAIN_HIGH_WATER_MARK if self._plain else HIGH_WATER_MARK,
                silence=silence,
            )
            self._links.append(link)
            link.start()

    def stopService(self) -> Deferred[None]:
        """Accept nothing more, wait until all jobs are settled or `drain` seconds are over, and disconnect.

        :returns: fires when everything is closed.
        """
        if self._stopping is None:
            super().stopService()
            self._stopping = Deferred.fromCoroutine(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        if self.pending and self._drain_seconds > 0:
            log.info("draining: {pending} jobs are unsettled", pending=self.pending)
            self._empty = Deferred()
            timeout = self._reactor.callLater(self._drain_seconds, self._empty.callback, None)
            await self._empty
            self._empty = None
            if timeout.active():
                timeout.cancel()
        if self.pending:
            log.warn(
                "{pending} jobs are lost: they were not settled within {drain} seconds, and live in memory only",
                pending=self.pending,
                drain=self._drain_seconds,
            )
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        for link in self._links:
            if link.session in self._sessions and not self._plain:
                link.send(protocol.encode(protocol.Close(link.session)))
            link.stop(LINGER_MS)
            session = self._dispatcher.session(link.session)
            if session is not None:
                self._dispatcher.lose(session)
        self._links.clear()
        self._sessions.clear()
        if self._factory is not None:
            await self._factory.close()
        self._factory = self._sink = None

    # Jobs

    def _accept(self, bodies: Sequence[bytes], headers: Mapping[str, str] | None) -> list[str]:
        if self._stopping is not None:
            raise Draining("the pipeline is being stopped: push to another, or later")
        packed = encode_headers(headers)
        for body in bodies:
            if len(check_body(body)) > self.max_body:
                raise TooLarge(f"a body of {len(body)} bytes: {self.max_body} are allowed")
        now = time.time()
        entries = [Entry(next(self._sequences), body, packed, now) for body in bodies]
        self._dispatcher.accept(entries)
        self._wake()
        return [make_id(self._ventilator, entry.sequence) for entry in entries]

    def _wake(self) -> None:
        """Hand out jobs at the end of this turn: what it gathers for one worker goes in one batch."""
        if self._wakeup is None and self._factory is not None:
            self._wakeup = self._reactor.callLater(0, self._hand_out)

    def _hand_out(self) -> None:
        self._wakeup = None
        for session, entries in self._dispatcher.assign(time.monotonic()):
            link = self._sessions[session.number]
            if self._plain:
                self._send_plain(link, session, entries)
            else:
                for batch in _batches(entries):
                    link.send(_encode(session.number, batch))

    def _send_plain(self, link: Link, session: Session, entries: list[Entry]) -> None:
        """Settle what the socket takes; the rest waits again, until the socket is writable."""
        sent = 0
        while sent < len(entries) and link.send([entries[sent].body]):
            sent += 1
        self._done(session, [entry.sequence for entry in entries[:sent]])
        if sent < len(entries):
            self._dispatcher.pause(session, True)
            self._dispatcher.returned(session, [entry.sequence for entry in entries[sent:]])

    def _done(self, session: Session | None, sequences: Sequence[int]) -> None:
        self._has_settled(self._dispatcher.done(session, sequences, time.monotonic(), time.time()))

    def _has_settled(self, entries: list[Entry]) -> None:
        self._settled.add(entries)
        if self._empty is not None and not self.pending:
            self._empty.callback(None)

    # Sessions: LinkOwner

    def link_opened(self, link: Link) -> None:
        """A socket is there; a session begins when it is connected."""

    def link_connected(self, link: Link) -> None:
        """A connection to a worker is there: open a session on it."""
        assert self._sink is not None
        link.session = secrets.randbits(64)
        self._sessions[link.session] = link
        if self._plain:
            self._takes_part(link, 1, "a plain PULL socket")
            self._wake()
        else:
            link.send(
                protocol.encode(
                    protocol.Hello(
                        self._ventilator,
                        next(self._generations),
                        link.session,
                        self._sink.address,
                        self._fixed_window,
                    )
                )
            )

    def link_lost(self, link: Link) -> None:
        """The link's session is over: what it held goes to others."""
        if self._sessions.get(link.session) is not link:
            return
        assert self._sink is not None
        # Reports that are here already count. They must not find the session half gone, hence before anything else.
        self._sink.drain(_DRAIN_SINK_SECONDS)
        if self._sessions.pop(link.session, None) is None:
            return  # one of them was the last that stopping waited for
        self._past[link.session] = None
        if len(self._past) > _PAST_SESSIONS:
            self._past.popitem(last=False)
        session = self._dispatcher.session(link.session)
        if session is not None:
            lost = self._dispatcher.lose(session)
            if lost:
                log.warn("{address}: {lost} jobs go to other workers", address=link.address, lost=lost)
            self._wake()

    def link_writable(self, link: Link) -> None:
        """A plain PULL socket takes jobs again."""
        session = self._dispatcher.session(link.session)
        if session is not None:
            self._dispatcher.pause(session, False)
            self._wake()

    # Reports

    def _received(self, frames: list[bytes], peer: Callable[[], str | None]) -> None:
        try:
            message = protocol.decode_for_sink(frames)
            if message.session not in self._sessions and message.session not in self._past:
                raise ProtocolError("it names a session that is none of ours")
        except ProtocolError as error:
            self._has_broken_protocol(error, peer())
            return
        link = self._sessions.get(message.session)
        if link is None and not isinstance(message, protocol.Done):
            return  # the session is lost
        session = self._dispatcher.session(message.session)
        match message:
            case protocol.Done():
                self._done(session, message.sequences)
            case protocol.Failed():
                self._failed(session, message)
            case protocol.Returned():
                self._dispatcher.returned(session, message.sequences)
            case protocol.Ready() if session is None:
                assert link is not None
                if link.state is State.CONNECTED:
                    self._ready(link, message)
            case protocol.Ready():
                assert link is not None
                link.give_up("the worker has given up the session")
                return
            case protocol.State() if session is not None:
                assert link is not None
                if not self._dispatcher.state(session, message.concurrency, message.sent):
                    link.give_up("reports of the worker went missing")
                    return
            case protocol.Bye() if session is not None:
                self._dispatcher.leave(session)
        if session is not None and session.leaving and not session.in_flight and link is not None:
            link.send(protocol.encode(protocol.Close(session.number)))
        self._wake()

    def _ready(self, link: Link, ready: protocol.Ready) -> None:
        about = f"{ready.handler} on {ready.host}, process {ready.pid}, {ready.concurrency} at once"
        self._takes_part(link, ready.concurrency, about)

    def _takes_part(self, link: Link, concurrency: int, about: str) -> None:
        link.meets_deadline()
        self._dispatcher.ready(link.session, concurrency)
        log.info("{address}: ready ({about})", address=link.address, about=about)

    def _failed(self, session: Session | None, failed: protocol.Failed) -> None:
        entry = self._dispatcher.failed(session, failed.sequence, failed.reason, time.monotonic(), time.time())
        if entry is not None:
            log.error(
                "job {id} is dead: {reason}\n{traceback}",
                id=make_id(self._ventilator, entry.sequence),
                reason=failed.reason,
                traceback=failed.traceback,
            )
            self._has_settled([entry])

    def _has_broken_protocol(self, error: ProtocolError, host: str | None) -> None:
        self.bad_messages += 1
        if host not in self._bad_hosts and len(self._bad_hosts) < 1000:
            self._bad_hosts.add(host)
            log.warn("the sink drops a message from {host}: {error} (said once for each host)", host=host, error=error)


def _check_workers(workers: Iterable[str]) -> list[str]:
    addresses = list(workers)
    for address in addresses:
        parse_address(address)
    if twice := {address for address in addresses if addresses.count(address) > 1}:
        raise UsageError(f"a worker is named twice: {min(twice)}")
    return addresses


def _batches(entries: list[Entry]) -> Iterable[list[Entry]]:
    """Cut what goes to one worker into what one message holds."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.body)
        if batch and (len(batch) == protocol.MAX_JOBS_IN_MESSAGE or size > protocol.MAX_BYTES_IN_MESSAGE):
            yield batch
            batch, size = [], len(entry.body)
        batch.append(entry)
    yield batch


def _encode(session: int, entries: list[Entry]) -> protocol.Frames:
    return protocol.encode_jobs(
        session,
        [entry.sequence for entry in entries],
        [entry.attempt for entry in entries],
        [entry.accepted_at for entry in entries],
        [entry.headers for entry in entries],
        [entry.body for entry in entries],
    )


def _status(job_id: str, entry: Entry) -> JobStatus:
    if entry.settled_at is None:
        state = "waiting" if entry.holder is None else "in flight"
    else:
        state = "done" if entry.error is None else "dead"
    return JobStatus(
        id=job_id,
        state=state,
        attempts=entry.attempt,
        accepted_at=entry.accepted_at,
        settled_at=entry.settled_at,
        error=entry.error,
    )
