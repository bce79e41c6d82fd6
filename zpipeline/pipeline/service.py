"""What users call, and starting and stopping."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.logger import Logger

from zpipeline.addresses import parse_address
from zpipeline.admission import Admission
from zpipeline.closing import Closing
from zpipeline.dispatch import Dispatcher
from zpipeline.errors import Draining, Refused, TooLarge, UsageError
from zpipeline.job import (
    DeadLetter,
    DeadLetterSummary,
    JobStatus,
    check_bodies,
    encode_headers,
    make_id,
    make_ids,
    parse_id,
)
from zpipeline.journal import Journal
from zpipeline.memory import Memory
from zpipeline.pipeline.gathering import Gathering
from zpipeline.pipeline.jobs import Jobs
from zpipeline.pipeline.observing import Observer
from zpipeline.pipeline.results import Results
from zpipeline.pipeline.sessions import Sessions
from zpipeline.pipeline.setting import ClockWatch
from zpipeline.retries import Policy
from zpipeline.sockets import MAX_FRAME
from zpipeline.stats import Measures, Stats, WorkerStatus
from zpipeline.steady import steady
from zpipeline.store import Key, Limits, Selection, Store, Summary
from zpipeline.times import SteadyTimes, Times
from zpipeline.window import MAX_WINDOW

DEFAULT_WORKERS = ("tcp://127.0.0.1:4444", "tcp://127.0.0.1:4445", "tcp://127.0.0.1:4446")
DEFAULT_SINK = "tcp://127.0.0.1:*"
DEFAULT_JOURNAL = "zpipe-web.sqlite"
MAX_PENDING = 1_000_000
MAX_PENDING_IN_MEMORY = 100_000
MAX_PENDING_BYTES_IN_MEMORY = 1 << 30
MAX_BODY = 1 << 20
ATTEMPTS = 5
BACKOFF = (1.0, 300.0)
KEEP = 3600.0
DRAIN = 30.0

#: How many settled jobs can be asked for, and how many idempotency keys are kept.
_KEPT = 1_000_000
_KEPT_IN_MEMORY = 100_000

#: How many bytes of results are kept.
_RESULT_BYTES = 1 << 30
_RESULT_BYTES_IN_MEMORY = 64 << 20

log = Logger()


class Pipeline(Service):
    """Hands jobs to workers, and sees to it that each is run.

    :param reactor: the reactor that it runs on.
    :param workers: the workers' addresses (``tcp://HOST:PORT``). They may come, go and come back at any time.
    :param journal: the file where jobs are until they are settled; None keeps them in memory, for as long as this
        process lives.
    :param journal_sync: ``"full"``: an accepted job outlives a power cut; ``"normal"``: it outlives this process.
    :param sink: where workers report to; a port of ``*`` takes a free one. For workers on other machines
        name an address that they reach, or ``tcp://*:PORT``.
    :param max_pending: how many jobs may be unsettled; None for 1,000,000, or 100,000 without a journal.
    :param max_pending_bytes: how many bytes their bodies may have together; None for any, or 1 GiB without a journal.
    :param max_body: how many bytes one body may have; at most 256 MiB, which one ZeroMQ frame carries.
    :param window: jobs in flight at each worker; None lets each window size itself (`zpipeline.window`).
    :param attempts: how often a job is tried whose handler fails.
    :param backoff: the longest delay before the second attempt, and before any, in seconds
        (`zpipeline.retries.Policy`).
    :param timeout: how long an attempt may take, in seconds; None for ever.
    :param keep: for how many seconds settled jobs and their results can be asked for, and idempotency keys are kept
        after that; at most 1,000,000 of each, or 100,000 without a journal, and 1 GiB of results, or 64 MiB.
    :param drain: how many seconds stopping waits for jobs to settle.
    :param plain: send each job as one plain frame to whatever PULL sockets are there: at most once, unacknowledged,
        and in memory.
    :raises UsageError: an address or a number cannot work.
    """

    def __init__(
        self,
        reactor: Any,
        workers: Iterable[str] = DEFAULT_WORKERS,
        *,
        journal: str | None = DEFAULT_JOURNAL,
        journal_sync: str = "full",
        sink: str = DEFAULT_SINK,
        max_pending: int | None = None,
        max_pending_bytes: int | None = None,
        max_body: int = MAX_BODY,
        window: int | None = None,
        attempts: int = ATTEMPTS,
        backoff: tuple[float, float] = BACKOFF,
        timeout: float | None = None,
        keep: float = KEEP,
        drain: float = DRAIN,
        plain: bool = False,
    ) -> None:
        self._workers = _check_workers(workers)
        parse_address(sink, bound=True)
        if window is not None and not 1 <= window <= MAX_WINDOW:
            raise UsageError(f"a window is from 1 to {MAX_WINDOW} jobs, not {window}")
        _check_whole("max_body", max_body, MAX_FRAME)
        _check_whole("max_pending", max_pending)
        _check_whole("max_pending_bytes", max_pending_bytes)
        _check_seconds("keep", keep)
        _check_seconds("drain", drain)
        if journal == "":
            raise UsageError("a journal needs the name of a file: name one with --journal")
        if journal_sync not in ("full", "normal"):
            raise UsageError(f"journal_sync is 'full' or 'normal', not {journal_sync!r}")
        self._reactor = reactor = steady(reactor)
        self._times = self._make_times()
        self._drain_seconds = drain
        self._observer = Observer(reactor, self._workers, self._times)
        #: Whether jobs are sent to plain PULL sockets: at most once, and nobody reports what comes of them.
        self.plain = plain
        self.max_body = max_body
        in_memory = journal is None or plain

        def make_store() -> Store:
            if journal is None or plain:
                limits = Limits(keep, _KEPT_IN_MEMORY, _KEPT_IN_MEMORY, _RESULT_BYTES_IN_MEMORY)
                return Memory(limits, self._times)
            limits, commits = Limits(keep, _KEPT, _KEPT, _RESULT_BYTES), self._observer.measures.commits
            return Journal(reactor, journal, self._times, synchronous=journal_sync, limits=limits, commits=commits)

        most = max_pending or (MAX_PENDING_IN_MEMORY if in_memory else MAX_PENDING)
        most_bytes = max_pending_bytes or (MAX_PENDING_BYTES_IN_MEMORY if in_memory else None)
        policy = Policy(attempts, *backoff, timeout)

        def build() -> None:
            admission, measures = Admission(most, most_bytes), self._observer.measures
            self._dispatcher = Dispatcher(
                policy,
                window=MAX_WINDOW if plain else window,
                bounded=not in_memory,
                # what a plain socket did not take was handed out to nobody
                redeliveries=None if plain else measures.redeliveries,
            )
            store = make_store()
            self._clock_watch = ClockWatch(self._times, store)
            self._jobs = Jobs(store, self._dispatcher, admission, measures, self._wake, self._times)
            self._gathering = Gathering(reactor, self._jobs)
            self._results = Results(reactor, self._jobs, self._times, plain=plain)
            self._sessions = self._make_sessions(sink, window, plain)

        self._build = build
        build()
        if in_memory:
            self._jobs.open()  # nothing can go wrong, and jobs can be pushed before the start
        self._stopping: Deferred[None] | None = None
        self._drained: Deferred[None] | None = None
        #: After stopping: how many jobs were lost (without a journal), or may run twice (with a journal that could
        #: not be written).
        self.left_undone = 0

    def _make_times(self) -> Times:
        """The clocks that it goes by."""
        return SteadyTimes()

    def _make_sessions(self, sink: str, window: int | None, plain: bool) -> Sessions:
        """The way to the workers."""
        return Sessions(
            self._reactor,
            self._dispatcher,
            self._jobs,
            self._observer,
            self._times,
            sink=sink,
            window=window,
            plain=plain,
        )

    # What users call

    def push(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, idempotency_key: str | None = None
    ) -> Deferred[str]:
        """Have a worker run one job.

        :param body: its content.
        :param headers: str to str; names are lowered.
        :param idempotency_key: pushed with the same key, the same body and the same headers ``content-type`` and
            ``zpipe-path``, it is the same job, until `keep` seconds after it was settled.
        :returns: the job's id, once it is accepted: in the journal, if there is one. To cancel the Deferred does not
            withdraw the job.
        :raises Full: (as all of these, by the Deferred) the bound on unsettled jobs is reached.
        :raises Draining: the pipeline is being stopped.
        :raises TooLarge: the body is larger than `max_body`.
        :raises JournalError: the journal cannot be written.
        :raises KeyReused: the key was that of another request.
        :raises KeysFull: there are too many keys.
        :raises UsageError: the body is not bytes, or the headers are not str to str.
        """
        try:
            packed = self._check([body], headers)
            if idempotency_key is None:
                return self._gathering.push(body, packed)
            self._gathering.flush()
            key = Key(idempotency_key, _fingerprint(body, packed))
            accepted = self._jobs.accept(self._jobs.admit([body], packed), key)
            return accepted.addCallback(lambda numbers: self._id(numbers[0]))
        except (Refused, UsageError) as error:
            self._observer.measures.refuse(error, 1)
            return fail()

    def push_many(self, bodies: Iterable[bytes], headers: Mapping[str, str] | None = None) -> Deferred[list[str]]:
        """Have workers run one job for each body: all are accepted or none.

        :param bodies: the jobs' contents.
        :param headers: the same for each of them.
        :returns: the jobs' ids, in order, once all are accepted.
        :raises Refused: (by the Deferred) as for `push`.
        """
        bodies = list(bodies)
        try:
            packed = self._check(bodies, headers)
            self._gathering.flush()
            accepted = self._jobs.accept(self._jobs.admit(bodies, packed))
            return accepted.addCallback(lambda numbers: make_ids(self._jobs.ventilator, numbers))
        except (Refused, UsageError) as error:
            self._observer.measures.refuse(error, len(bodies))
            return fail()

    def job(self, job_id: str) -> Deferred[JobStatus | None]:
        """What is known of a job; None when it is unknown, or was settled so long ago that it is forgotten.

        :raises JournalError: (as of all that follow, by the Deferred) the journal cannot be read.
        """
        return Deferred.fromCoroutine(self._job(job_id))

    async def _job(self, job_id: str) -> JobStatus | None:
        sequence = self._sequence(job_id)
        known = None if sequence is None else self._jobs.status(sequence)
        status = await known if isinstance(known, Deferred) else known
        if status is None:
            return None
        state, attempts, accepted_at, settled_at, error = status
        shown = self._times.shown
        return JobStatus(
            job_id, state, attempts, shown(accepted_at), None if settled_at is None else shown(settled_at), error
        )

    def result(self, job_id: str, timeout: float | None = None) -> Deferred[Any]:
        """What the job's handler has returned, once the job is done.

        Attempts that fail are no end of it: it is waited for the next one, until the job is done or dead. Whoever does
        not wait any longer cancels the Deferred; nothing happens to the job.

        :param timeout: for how many seconds it is waited for; 0 takes what there is now, None waits for ever.
        :returns: bytes, a str, or what was read from JSON (None too): as the handler returned it, but that JSON has no
            tuples, and the names in its objects are text.
        :raises UnknownJob: (as all of these, by the Deferred) there is no job of this id.
        :raises NotSettled: the time was over, or the pipeline was stopped, before the job was settled. It is a
            `TimeoutError` too.
        :raises JobDead: the job has failed for good.
        :raises ResultGone: the job is settled, and its result is not kept (see `keep`), or could not be carried: it was
            over 1 MiB, or nothing that JSON can hold.
        :raises JournalError: the journal cannot be read.
        """
        return Deferred.fromCoroutine(self._results.result(job_id, self._sequence(job_id), timeout))

    def dead_letters(self, after: str | None = None, most: int = 100) -> Deferred[list[DeadLetterSummary]]:
        """Jobs that are dead, in the order in which they were accepted.

        :param after: only those with higher ids.
        :param most: no more than so many.
        """
        number = 0 if after is None else self._sequence(after)
        letters = self._jobs.letters(0 if number is None else number, most)
        return letters.addCallback(lambda found: [self._summary(summary) for summary in found])

    def dead_letter(self, job_id: str) -> Deferred[DeadLetter | None]:
        """All of a dead job; None when there is none of that id."""
        return Deferred.fromCoroutine(self._dead_letter(job_id))

    async def _dead_letter(self, job_id: str) -> DeadLetter | None:
        sequence = self._sequence(job_id)
        letter = None if sequence is None else await self._jobs.letter(sequence)
        if letter is None:
            return None
        headers = MappingProxyType(json.loads(letter.headers))
        return DeadLetter(self._summary(letter.summary), letter.body, headers, letter.traceback)

    def retry_dead(self, job_id: str) -> Deferred[bool]:
        """Have a dead job tried again, as if for the first time: whether there is one of that id."""
        return Deferred.fromCoroutine(self._retry_dead(job_id))

    async def _retry_dead(self, job_id: str) -> bool:
        sequence = self._sequence(job_id)
        return sequence is not None and bool(await self._jobs.revive(Selection(sequence - 1, sequence)))

    def retry_all_dead(self, handler: str | None = None, error: str | None = None) -> Deferred[int]:
        """Have dead jobs tried again, as if for the first time: how many there were.

        :param handler: only those whose last attempt was made by it, as workers name it.
        :param error: only those with this text in their error.
        """
        return Deferred.fromCoroutine(self._jobs.revive(Selection(handler=handler, error=error)))

    def drop_dead(self, job_id: str) -> Deferred[bool]:
        """Throw a dead job away: whether there was one of that id."""
        return Deferred.fromCoroutine(self._drop_dead(job_id))

    async def _drop_dead(self, job_id: str) -> bool:
        sequence = self._sequence(job_id)
        return sequence is not None and await self._jobs.drop(sequence)

    @property
    def ready_workers(self) -> int:
        """How many workers take part now."""
        return self._dispatcher.ready_workers

    @property
    def accepting(self) -> bool:
        """Whether a job would be accepted now."""
        return not (self.draining or self._jobs.admission.full or self.trouble)

    @property
    def draining(self) -> bool:
        """Whether the pipeline is being stopped."""
        return self._stopping is not None

    @property
    def ended(self) -> bool:
        """Whether it has been stopped, and everything is closed."""
        return self._stopping is not None and self._stopping.called

    @property
    def trouble(self) -> str | None:
        """Why the journal cannot be written now; None when it can."""
        return self._jobs.trouble

    @property
    def pending(self) -> int:
        """How many jobs are accepted and not settled."""
        return self._jobs.unsettled

    @property
    def bad_messages(self) -> int:
        """How many messages broke the protocol."""
        return self._observer.measures.bad_messages

    def stats(self) -> Stats:
        """What this pipeline does, and has done since this process started."""
        return self._observer.stats(self._jobs, self._dispatcher, accepting=self.accepting, draining=self.draining)

    def workers(self) -> list[WorkerStatus]:
        """What each worker does, in the order in which they were named."""
        return self._sessions.workers()

    def watch(self, watcher: Callable[[bool], None]) -> Callable[[], None]:
        """Have this called each second, when `stats` and `workers` have new rates, from now on.

        :param watcher: takes False; and True when the pipeline has ended: then it is not called again.
        :returns: ends that.
        """
        return self._observer.watch(watcher)

    @property
    def measures(self) -> Measures:
        """All that is counted, with its histograms: not to be changed."""
        return self._observer.measures

    # Starting and stopping

    def bind(self) -> None:
        """Bind the sink and open the journal; `startService` does so too. Call it first to learn what is wrong.

        :raises UsageError: the sink's address cannot be bound, or the journal not be opened; or it is bound already.
        """
        if self._sessions.bound:
            raise UsageError("this pipeline is bound already")
        if self._jobs.survive:
            self._jobs.open()
        try:
            self._sessions.bind()
        except UsageError:
            if self._jobs.survive:
                self._jobs.close()
                self._build()  # whoever binds again reads the journal again
            raise

    def startService(self) -> None:
        """Connect to the workers, as they come."""
        super().startService()
        if self._stopping is not None and self._jobs.survive:
            self._build()  # what is unsettled is read from the journal again
        self._stopping = None
        if not self._sessions.bound:
            self.bind()
        if self._jobs.survive and self.pending:
            log.info("{pending} jobs of the journal are not settled yet", pending=self.pending)
        self._sessions.start(self._workers, self._jobs.epoch)
        self._observer.watch(self._look_at_clock)
        self._observer.start()

    def stopService(self) -> Deferred[None]:
        """Accept nothing more, wait until jobs are settled or `drain` seconds are over, and disconnect.

        With a journal it is waited for those in flight, and the others stay in the journal; without one, for all.

        :returns: fires when everything is closed.
        :raises NotClosed: (by the Deferred) some of it failed; all else is closed nevertheless.
        """
        if self._stopping is None:
            super().stopService()
            self._stopping = Deferred.fromCoroutine(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        closing = Closing()
        await closing.close("what was just pushed", self._gathering.flush)
        if self._jobs.survive:
            self._sessions.hold()
        if self._awaited and self._drain_seconds > 0:
            log.info("draining: {jobs} jobs are waited for", jobs=self._awaited)
            self._drained = Deferred()
            timeout = self._reactor.callLater(self._drain_seconds, self._drained.callback, None)
            await self._drained
            self._drained = None
            if timeout.active():
                timeout.cancel()
        await closing.close("the way to the workers", self._sessions.stop)
        await closing.close("the watch of the clock", self._clock_watch.look)
        unwritten = await closing.close("the store of jobs", self._jobs.close)
        await closing.close("the statistics", self._observer.stop)
        if self._jobs.waiting.end():
            # What they write to their clients is to be sent before the process ends. The first turn may be this one.
            for _ in range(2):
                await deferLater(self._reactor, 0)
        self._say_what_is_left(unwritten or 0)
        closing.check()

    def _look_at_clock(self, has_ended: bool) -> None:
        if not has_ended:
            self._clock_watch.look()

    @property
    def _awaited(self) -> int:
        """For how many jobs stopping waits."""
        return self._dispatcher.in_flight if self._jobs.survive else self.pending

    def _wake(self) -> None:
        self._sessions.schedule()
        if self._drained is not None and not self._drained.called and not self._awaited:
            self._drained.callback(None)

    def _say_what_is_left(self, unwritten: int) -> None:
        self.left_undone = unwritten
        if unwritten:
            log.error(
                "{unwritten} jobs may run twice: the journal could not be written when they had been run",
                unwritten=unwritten,
            )
        if not self._jobs.survive and self.pending:
            self.left_undone = self.pending
            log.error(
                "{pending} jobs are lost: they were not settled within {drain} seconds, and live in memory only",
                pending=self.pending,
                drain=self._drain_seconds,
            )
        elif self.pending:
            log.info("{pending} jobs wait in the journal for the next start", pending=self.pending)

    # Names

    def _id(self, sequence: int) -> str:
        return make_id(self._jobs.ventilator, sequence)

    def _sequence(self, job_id: str) -> int | None:
        """The number of one of our jobs; None when that is no id of ours."""
        ventilator, sequence = parse_id(job_id) or (None, 0)
        # SQLite's integers have 63 bits
        return sequence if ventilator == self._jobs.ventilator and sequence < 1 << 63 else None

    def _summary(self, summary: Summary) -> DeadLetterSummary:
        shown = self._times.shown
        return DeadLetterSummary(
            self._id(summary.sequence), shown(summary.accepted_at), shown(summary.settled_at), *summary[3:]
        )

    def _check(self, bodies: Sequence[bytes], headers: Mapping[str, str] | None) -> bytes:
        """The headers, packed, of a push that may go on."""
        if self._stopping is not None:
            raise Draining("the pipeline is being stopped: push to another, or later")
        packed = encode_headers(headers)
        check_bodies(bodies)
        longest = max(map(len, bodies), default=0)
        if longest > self.max_body:
            raise TooLarge(f"a body of {longest} bytes: {self.max_body} are allowed")
        return packed


def _fingerprint(body: bytes, packed_headers: bytes) -> bytes:
    """What must be the same in a request that is sent again."""
    headers = json.loads(packed_headers)
    about = json.dumps([headers.get("content-type"), headers.get("zpipe-path")])
    return hashlib.sha256(about.encode() + b"\n" + body).digest()


def _check_whole(name: str, number: int | None, most: int | None = None) -> None:
    """That it is a whole number above 0, and no more than that; None is in order.

    :raises UsageError: it is not.
    """
    if number is None:
        return
    if type(number) is not int or number < 1 or (most is not None and number > most):
        bounds = "1 or more" if most is None else f"from 1 to {most}"
        raise UsageError(f"{name} is a whole number, {bounds}, not {number!r}")


def _check_seconds(name: str, seconds: float) -> None:
    if not (seconds >= 0 and isfinite(seconds)):
        raise UsageError(f"{name} is a number of seconds, 0 or more, not {seconds!r}")


def _check_workers(workers: Iterable[str]) -> list[str]:
    addresses = list(workers)
    for address in addresses:
        parse_address(address)
    if twice := {address for address in addresses if addresses.count(address) > 1}:
        raise UsageError(f"a worker is named twice: {min(twice)}")
    return addresses
