"""The workers, as the ventilator knows them: a link to each, a session on each connection, and what they report."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from zpipeline import protocol
from zpipeline.closing import Closing
from zpipeline.dispatch import GRACE, Dispatcher, Fate
from zpipeline.entry import Entry, Session
from zpipeline.errors import ProtocolError, UsageError
from zpipeline.histogram import Timings
from zpipeline.inquest import Inquest
from zpipeline.link import DEADLINE, Link, State
from zpipeline.pipeline.jobs import Jobs
from zpipeline.pipeline.observing import Observer
from zpipeline.pipeline.sending import to_messages
from zpipeline.pipeline.twins import Twins
from zpipeline.sockets import DRAIN_MESSAGES, HIGH_WATER_MARK, LINGER_MS, Factory, Pull
from zpipeline.stats import WorkerStatus
from zpipeline.text import printable
from zpipeline.times import Times

#: How long reports that are here already are read before a session is given up for lost.
_DRAIN_SINK_SECONDS = 0.25
_PAST_SESSIONS = 10_000

#: For how many seconds an overdue session may still report before it is lost. This process may have been stopped, and
#: what was reported meanwhile is in the kernel: libzmq needs a moment to read it.
_SECOND_LOOK = 1.0

#: A look that comes so many seconds late says that this process was stopped again, or held up: there is another.
_LATE = 0.5
_MOST_LOOKS = 10

#: After how many seconds there is another look at what is due, if nothing comes: the reactor's clock may have stood
#: still, while the machine was suspended.
_LONGEST_WAIT = 60.0

_PLAIN_HIGH_WATER_MARK = 1000  # ZeroMQ's own default

#: At the sink, of each worker. There are no heartbeats that this could hold up, and what a worker reports beyond it
#: waits there: with results of a mebibyte a message (rule 8 of docs/protocol.rst) it is less than `MOST_UNREAD`.
_SINK_HIGH_WATER_MARK = DRAIN_MESSAGES

_GIVEN_UP = "the worker has given up the session"

log = Logger()


@frozen
class _Process:
    """A worker's process, of which READY has told.

    :ivar since: when it was first ready, by the monotonic clock.
    """

    incarnation: int
    handler: str
    since: float


class Sessions:
    """All workers of one ventilator. It is the `zpipeline.link.LinkOwner` of their links.

    :param window: as it is told to workers.
    :param observer: is told what the workers do.
    :param plain: send each job as one plain frame, and settle it then.
    """

    def __init__(
        self,
        reactor: Any,
        dispatcher: Dispatcher,
        jobs: Jobs,
        observer: Observer,
        times: Times,
        *,
        sink: str,
        window: int | None,
        plain: bool,
    ) -> None:
        self._reactor = reactor
        self._dispatcher = dispatcher
        self._jobs = jobs
        self._measures = observer.measures
        self._roster = observer.roster
        self._times = times
        self._sink_address = sink
        self._window = window
        self._plain = plain
        self._generation = 0
        self._links: list[Link] = []
        self._open: dict[int, Link] = {}
        self._past: OrderedDict[int, None] = OrderedDict()  # sessions that were lost, for what comes late
        self._processes: dict[Link, _Process] = {}
        self._twins = Twins(self._holds)
        self._inquests: dict[Link, tuple[int, Inquest]] = {}  # about the process of a lost session
        self._factory: Factory | None = None
        self._sink: Pull | None = None
        self._bad_hosts: set[str | None] = set()
        self._wakeup: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._second_look: IDelayedCall | None = None
        self._is_holding = False

    def workers(self) -> list[WorkerStatus]:
        """What is known of each."""
        return self._roster.statuses(
            {link.address: (self._dispatcher.session(link.session), link.trouble) for link in self._links}
        )

    # Starting and stopping

    @property
    def bound(self) -> bool:
        """Whether `bind` has been called."""
        return self._sink is not None

    def bind(self) -> None:
        """Bind the sink.

        :raises UsageError: its address cannot be bound.
        """
        factory = Factory(self._reactor)
        try:
            self._sink = Pull(
                factory,
                self._sink_address,
                self._received,
                self._has_broken_protocol,
                high_water_mark=_SINK_HIGH_WATER_MARK,
            )
        except UsageError as error:
            factory.close()
            raise UsageError(f"{error} (choose another --sink)") from None
        self._factory = factory

    def start(self, workers: Iterable[str], epoch: int) -> None:
        """Connect to these, as they come.

        :param epoch: how often this ventilator has been started; sessions of a later one replace earlier ones.
        """
        assert self._factory is not None and self._sink is not None
        self._is_holding = False
        self._generation = max(self._generation, epoch << 32)
        for address in workers:
            link = Link(
                self._reactor,
                self._factory,
                address,
                self,
                # any PULL socket stops answering heartbeats at its own high-water mark
                heartbeats=not self._plain,
                high_water_mark=_PLAIN_HIGH_WATER_MARK if self._plain else HIGH_WATER_MARK,
            )
            self._links.append(link)
            link.start()
        self.schedule()

    def hold(self) -> None:
        """Hand out nothing more."""
        self._is_holding = True

    def stop(self) -> Deferred[None]:
        """Disconnect from all: fires when all sockets are closed.

        :raises NotClosed: (by the Deferred) some of it failed; all is closed nevertheless.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        closing = Closing()
        links, self._links = self._links, []  # without any, nothing is scheduled
        for call in (self._wakeup, self._deadline, self._second_look):
            if call is not None and call.active():
                call.cancel()
        self._wakeup = self._deadline = self._second_look = None
        for link in links:
            await closing.close(f"the session with {link.address}", self._end_session, link)
            await closing.close(f"the connection to {link.address}", link.stop, LINGER_MS)
        self._open.clear()
        self._processes.clear()
        self._twins = Twins(self._holds)
        factory, self._factory, self._sink = self._factory, None, None
        if factory is not None:
            await closing.close("the sockets", factory.close)
        closing.check()

    def _end_session(self, link: Link) -> None:
        session = self._dispatcher.session(link.session)
        # A worker that has something to do, and whose ventilator will come back, reports to that one.
        is_left_to_it = session is not None and session.in_flight and self._jobs.survive
        if link.session in self._open and not self._plain and not is_left_to_it:
            link.send(protocol.encode(protocol.Close(link.session)))
        self._end_inquest(link, Fate.UNREACHABLE)
        if session is not None:
            self._roster[link.address].is_lost(self._times.wall())
            self._dispatcher.lose(session)
            self._jobs.verdict(session.number, Fate.UNREACHABLE, "")

    # Jobs go out

    def schedule(self) -> None:
        """Hand out jobs at the end of this turn: what it gathers for one worker goes in one batch."""
        if self._wakeup is None and self._links:
            self._wakeup = self._reactor.callLater(0, self._hand_out)

    def _hand_out(self) -> None:
        self._wakeup = None
        if self._is_holding:
            return
        skew = self._times.skew
        for session, entries in self._jobs.hand_out():
            link = self._open[session.number]
            if self._plain:
                self._send_plain(link, session, entries)
            else:
                for message in to_messages(session.number, entries, skew):
                    link.send(message)
        self._watch_time()

    def _send_plain(self, link: Link, session: Session, entries: list[Entry]) -> None:
        """Settle what the socket takes; the rest waits again, until the socket is writable."""
        sent = 0
        while sent < len(entries) and link.send([entries[sent].body]):
            sent += 1
        done = self._jobs.done(session, [entry.sequence for entry in entries[:sent]])
        self._roster[link.address].done += done
        if sent < len(entries):
            self._dispatcher.pause(session, True)
            self._dispatcher.returned(session, [entry.sequence for entry in entries[sent:]], self._times.monotonic())

    def _watch_time(self) -> None:
        """Be there when the dispatcher has something to do though nothing comes."""
        wait = self._dispatcher.next_deadline(
            self._times.monotonic(), self._times.time(), overdue=self._second_look is None
        )
        call = self._deadline
        if wait is not None and wait > _LONGEST_WAIT:
            wait = _LONGEST_WAIT
        if wait is None or (call is not None and call.getTime() <= self._reactor.seconds() + wait):
            return  # an earlier call looks again
        if call is not None:
            call.cancel()
        self._deadline = self._reactor.callLater(wait, self._time_has_come)

    def _time_has_come(self) -> None:
        self._deadline = None
        if self._second_look is None and self._dispatcher.overdue(self._times.monotonic()):
            self._look_again()
        self._jobs.wake()

    def _look_again(self, looks: int = _MOST_LOOKS) -> None:
        """Judge those that are overdue once what they have reported is read, if it is here."""
        self._second_look = self._reactor.callLater(_SECOND_LOOK, self._judge_overdue, looks - 1)

    def _judge_overdue(self, looks_left: int) -> None:
        assert self._second_look is not None and self._sink is not None
        late = self._reactor.seconds() - self._second_look.getTime()
        self._second_look = None
        if late > _LATE and looks_left:
            self._look_again(looks_left)
            return
        self._sink.drain(_DRAIN_SINK_SECONDS)
        for session in self._dispatcher.overdue(self._times.monotonic()):
            link = self._open.get(session.number)
            if link is not None:  # or it was lost by what was read when the one before it was lost
                self._lose(link, Fate.OVERDUE)
                link.give_up(f"has reported nothing for {self._dispatcher.policy.timeout} seconds and {GRACE:g} more")
        self._jobs.wake()

    # Sessions: LinkOwner

    def link_opened(self, link: Link) -> None:
        """A socket is there; a session begins when it is connected."""

    def link_connected(self, link: Link) -> None:
        """A connection to a worker is there: open a session on it."""
        assert self._sink is not None
        link.session = secrets.randbits(64)
        self._open[link.session] = link
        if self._plain:
            self._takes_part(link, None, 1, self._times.monotonic(), "a plain PULL socket")
            self._jobs.wake()
            return
        first = self._twins.in_place_of(link)
        if first is None:
            self._generation += 1
            link.generation = self._generation
            silence = (
                f"connected, but its reports do not reach {self._sink.address}: is that address reachable from the "
                f"worker (see --sink)? For a plain PULL socket use --plain (for {DEADLINE:.0f} seconds)"
            )
        else:
            link.generation = first.generation
            silence = _same_as(first)
        link.silence = silence
        hello = protocol.Hello(
            self._jobs.ventilator,
            link.generation,
            link.session,
            self._sink.address,
            self._window,
            self._dispatcher.policy.timeout,
        )
        link.send(protocol.encode(hello))

    def link_lost(self, link: Link) -> None:
        """The link's session is over: what it held goes to others."""
        self._lose(link, None)

    def _lose(self, link: Link, fate: Fate | None) -> None:
        """The session is over.

        :param fate: of its process; None when it has to be found out.
        """
        if self._open.get(link.session) is not link:
            return
        assert self._sink is not None
        # Reports that are here already count. They must not find the session half gone, hence before anything else.
        self._sink.drain(_DRAIN_SINK_SECONDS)
        if self._open.pop(link.session, None) is None:
            return  # one of them was the last that stopping waited for
        self._past[link.session] = None
        if len(self._past) > _PAST_SESSIONS:
            self._past.popitem(last=False)
        session = self._dispatcher.session(link.session)
        if session is None:
            return
        self._end_inquest(link, Fate.UNREACHABLE)
        self._roster[link.address].is_lost(self._times.wall())
        lost = self._dispatcher.lose(session)
        if lost:
            log.warn("{address}: {lost} jobs go to other workers", address=link.address, lost=lost)
        if fate is None and lost and link.peer is not None and not self._plain:
            inquest = Inquest(self._reactor, link.peer, partial(self._has_verdict, link))
            self._inquests[link] = session.number, inquest
        else:
            self._judge(link, session.number, fate or Fate.UNREACHABLE)

    def _has_verdict(self, link: Link, is_dead: bool) -> None:
        self._end_inquest(link, Fate.DEAD if is_dead else Fate.UNREACHABLE)

    def _end_inquest(self, link: Link, fate: Fate) -> None:
        """What became of the process of the link's last session, if that was still asked."""
        number, inquest = self._inquests.pop(link, (0, None))
        if inquest is not None:
            inquest.close()
            self._judge(link, number, fate)

    def _judge(self, link: Link, session: int, fate: Fate) -> None:
        process = self._processes.get(link)
        failed = self._jobs.verdict(session, fate, process.handler if process is not None else "")
        self._roster[link.address].failed += failed

    def link_writable(self, link: Link) -> None:
        """A plain PULL socket takes jobs again."""
        session = self._dispatcher.session(link.session)
        if session is not None:
            self._dispatcher.pause(session, False)
            self._jobs.wake()

    # Reports

    def _received(self, frames: list[bytes], peer: Callable[[], str | None]) -> None:
        try:
            message = protocol.decode_for_sink(frames)
            if message.session not in self._open and message.session not in self._past:
                raise ProtocolError("it names a session that is none of ours")
            if isinstance(message, protocol.Done | protocol.Returned):
                self._jobs.check_numbers(message.sequences)
        except ProtocolError as error:
            self._has_broken_protocol(error, peer())
            return
        link = self._open.get(message.session)
        if link is None and not isinstance(message, protocol.Done):
            return  # the session is lost
        session = self._dispatcher.session(message.session)
        match message:
            case protocol.Done():
                done = self._jobs.done(session, message.sequences, message.results)
                if link is not None:
                    self._roster[link.address].done += done
            case protocol.Failed():
                assert link is not None
                process = self._processes.get(link)
                failed = self._jobs.failed(session, message, process.handler if process is not None else "")
                self._roster[link.address].failed += failed
            case protocol.Returned():
                assert link is not None
                returned = self._dispatcher.returned(session, message.sequences, self._times.monotonic())
                self._roster[link.address].returned += returned
            case protocol.Ready() if session is None:
                assert link is not None
                if link.state is State.CONNECTED:
                    self._ready(link, message)
            case protocol.Ready():
                assert link is not None
                link.give_up(_GIVEN_UP)
                return
            case protocol.State() if session is not None:
                assert link is not None
                try:
                    took = self._measured(link, message.timings)
                except ValueError as error:
                    self._has_broken_protocol(ProtocolError(f"its histograms have {error}"), peer())
                    return
                if not self._dispatcher.state(session, message.concurrency, message.sent, took):
                    link.give_up("reports of the worker went missing")
                    return
                if message.held is not None and not self._dispatcher.holds(session, message.received, message.held):
                    link.give_up("the worker has lost sight of jobs that it was sent")
                    return
            case protocol.Bye() if session is not None:
                assert link is not None
                self._roster[link.address].leaves(self._times.wall())
                self._dispatcher.leave(session)
        if session is not None and session.leaving and not session.in_flight and link is not None:
            link.send(protocol.encode(protocol.Close(session.number)))
        self._jobs.wake()

    def _measured(self, link: Link, timings: Timings | None) -> float | None:
        """How long an attempt takes there now, on average, in seconds; None where that is not said."""
        if timings is None:
            return None
        new = self._roster[link.address].measured(timings)
        self._measures.timings.add(new)
        return new.run.mean

    def _ready(self, link: Link, ready: protocol.Ready) -> None:
        now = self._times.monotonic()
        before = self._processes.get(link)
        is_same = before is not None and before.incarnation == ready.incarnation
        self._end_inquest(link, Fate.UNREACHABLE if is_same else Fate.DEAD)
        since = before.since if before is not None and is_same else now
        self._processes[link] = _Process(ready.incarnation, ready.handler, since)
        first = self._twins.ready(link, ready.incarnation)
        if first is not None:
            if link.generation > first.generation:
                first.give_up(_GIVEN_UP)  # for this one; it will say so, too
            self._roster[link.address].has_left = False
            link.give_up(_same_as(first))
            return
        about = f"{ready.handler} on {ready.host}, process {ready.pid}, {ready.concurrency} at once"
        self._takes_part(link, ready, ready.concurrency, since, about)

    def _holds(self, link: Link) -> bool:
        """Whether it has a session, or only the one that its worker has given up: there will be another."""
        return self._dispatcher.session(link.session) is not None or link.trouble == _GIVEN_UP

    def _takes_part(self, link: Link, ready: protocol.Ready | None, concurrency: int, since: float, about: str) -> None:
        link.meets_deadline()
        self._roster[link.address].is_ready(ready, self._times.wall())
        self._dispatcher.ready(link.session, concurrency, self._times.monotonic(), since)
        log.info("{address}: ready ({about})", address=link.address, about=printable(about))

    def _has_broken_protocol(self, error: ProtocolError, host: str | None) -> None:
        self._measures.bad_messages += 1
        if host not in self._bad_hosts and len(self._bad_hosts) < 1000:
            self._bad_hosts.add(host)
            log.warn("the sink drops a message from {host}: {error} (said once for each host)", host=host, error=error)


def _same_as(first: Link) -> str:
    """Why a link is not used."""
    return f"leads to the same worker as {first.address}, which is used: leave one of the two out"
