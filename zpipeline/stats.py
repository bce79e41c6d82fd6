"""What a pipeline says of itself: counts, rates and times. Pure: the time is a parameter.

What is counted grows for as long as the process lives (`Measures`). Rates and percentiles come of how it was at the
beginning of each of the last seconds (`Recent`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from attrs import define, field, frozen

from zpipeline import histogram
from zpipeline.entry import Cause
from zpipeline.errors import Draining, Full, JournalError, JournalFull, KeyReused, KeysFull, Refused, TooLarge
from zpipeline.histogram import Histogram, Timings

#: For how many seconds the times are looked at of which percentiles are given, and what workers have done.
PERIOD = 10


@frozen
class Percentiles:
    """Times, in seconds: half of them are not above `p50`, and so on. All None where nothing was measured.

    They are read off histograms (`zpipeline.histogram`): exact to the bounds, and even in between.
    """

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@frozen
class WorkerLatency:
    """Percentiles of the last 10 seconds, as the workers measure them.

    :ivar start: from a job's acceptance to the start of its first attempt.
    :ivar run: from the start of an attempt to its end.
    """

    start: Percentiles = Percentiles()
    run: Percentiles = Percentiles()


@frozen
class Latency(WorkerLatency):
    """Percentiles of the last 10 seconds.

    :ivar settle: from a job's acceptance until it was settled, done or dead.
    """

    settle: Percentiles = Percentiles()


@frozen
class Rates:
    """Jobs a second, in the last second.

    :ivar accepted: that were accepted.
    :ivar settled: that were settled.
    """

    accepted: float = 0.0
    settled: float = 0.0


@frozen
class Refusals:
    """Jobs that were refused, by why.

    :ivar full: the bound on unsettled jobs was reached.
    :ivar draining: the pipeline was being stopped.
    :ivar too_large: a body was over the limit.
    :ivar journal: the journal could not be written.
    :ivar journal_full: its disk was full.
    :ivar key_reused: an idempotency key was that of another request.
    :ivar keys_full: there were too many idempotency keys.
    """

    full: int = 0
    draining: int = 0
    too_large: int = 0
    journal: int = 0
    journal_full: int = 0
    key_reused: int = 0
    keys_full: int = 0


@frozen
class Redeliveries:
    """How often a job was handed out that had been before, by why.

    :ivar lost: the session that it was in flight in was lost: the worker was killed, was frozen, or was cut off.
    :ivar returned: its worker gave it back, not begun.
    :ivar retry: an attempt failed or took too long; or it was a dead letter, and is tried again.
    """

    lost: int = 0
    returned: int = 0
    retry: int = 0


@frozen
class JournalStats:
    """What the journal has written.

    :ivar commits: transactions that had jobs in them.
    :ivar jobs: in these: each counts when it is accepted, and again for whatever becomes of it (done, dead, failed).
    :ivar seconds_p50: half of the commits of the last 10 seconds took no longer, from the beginning of the transaction
        until it was on the disk; None where there was none.
    :ivar seconds_p99: and 99 of 100 took no longer than this.
    :ivar set_aside: how often it could not be written what became of a job, for another reason than the disk.
    """

    commits: int
    jobs: int
    seconds_p50: float | None
    seconds_p99: float | None
    set_aside: int


@frozen
class Stats:
    """What a pipeline does. All counts are of this process: they begin at 0 when it starts.

    :ivar version: of zpipeline.
    :ivar host: the name of this machine.
    :ivar pid: of this process.
    :ivar time: when this was said, in seconds since the epoch.
    :ivar uptime: for how many seconds the pipeline has been started; 0 when it is not.
    :ivar accepting: whether a job would be accepted now.
    :ivar draining: whether the pipeline is being stopped, or was.
    :ivar trouble: why the journal cannot be written now; None when it can.
    :ivar accepted: jobs that were accepted.
    :ivar refused: jobs that were not.
    :ivar done: jobs that have been run.
    :ivar dead: jobs that have become dead letters.
    :ivar failed: attempts that failed, those that were the last included.
    :ivar redelivered: how often a job was handed out that had been before, whatever the cause. What another process
        handed out before this one took over its journal is known only of jobs that failed or were struck.
    :ivar redeliveries: the same by cause. Of a job that another process handed out, and that was struck and has failed,
        the cause is taken to be `retry`.
    :ivar bad_messages: messages from workers' side that broke the protocol.
    :ivar pending: jobs that are accepted and not settled, those that are being written down included.
    :ivar waiting: of these, those that are at no worker.
    :ivar oldest_waiting: how long that one of them has waited which has waited longest, in seconds: since it was
        accepted, or since its retry was due. Those that wait for a retry that is not due yet do not count. 0 when none
        waits.
    :ivar in_flight: and those that are.
    :ivar dead_letters: how many are kept.
    :ivar ready_workers: workers that take part.
    :ivar journal: None without a journal.
    """

    version: str
    host: str
    pid: int
    time: float
    uptime: float
    accepting: bool
    draining: bool
    trouble: str | None
    accepted: int
    refused: Refusals
    done: int
    dead: int
    failed: int
    redelivered: int
    redeliveries: Redeliveries
    bad_messages: int
    pending: int
    waiting: int
    oldest_waiting: float
    in_flight: int
    dead_letters: int
    ready_workers: int
    rates: Rates
    latency: Latency
    journal: JournalStats | None


@frozen
class WorkerStatus:
    """One worker, by its address. Counts are of what it reported to this process.

    :ivar state: ``"connecting"`` (it has not been ready yet), ``"ready"``, ``"leaving"`` (it was told to stop, and ends
        what it has) or ``"lost"`` (it was ready, and is not: it has gone, was killed, is frozen or cut off).
    :ivar why: what keeps it from being ready; None when nothing does, or nothing is known yet.
    :ivar since: when it came into that state, in seconds since the epoch.
    :ivar host: the name of its machine, as it says; None, as all to `concurrency`, before it was ready for the first
        time, and of a plain PULL socket.
    :ivar pid: of its process.
    :ivar version: of its program.
    :ivar handler: the name of what runs its jobs.
    :ivar concurrency: how many jobs it runs at once.
    :ivar window: how many jobs it may have in flight; None when it is not ready.
    :ivar in_flight: how many it has.
    :ivar done: jobs that it has run.
    :ivar failed: attempts that failed there.
    :ivar returned: jobs that it gave back, not begun.
    :ivar share: of all jobs that were done in the last 10 seconds, 0 to 1.
    :ivar rate: jobs that it has run in the last second.
    """

    address: str
    state: str
    why: str | None
    since: float
    host: str | None
    pid: int | None
    version: str | None
    handler: str | None
    concurrency: int | None
    window: int | None
    in_flight: int
    done: int
    failed: int
    returned: int
    share: float
    rate: float
    latency: WorkerLatency


#: How much is told of workers that differ: so many handlers, and of each so many addresses.
_MOST_HANDLERS, _MOST_ADDRESSES = 5, 3


def differing(ready: Iterable[tuple[str, str | None]]) -> str | None:
    """How the handlers of ready workers differ: which workers have which. None when they do not.

    Each job goes to any of them, so that they should be the same, save while they are replaced.

    :param ready: of each of them, its address and its handler's name; None where that is not known.
    """
    addresses: dict[str, list[str]] = {}
    for address, handler in ready:
        if handler is not None:
            addresses.setdefault(handler, []).append(address.removeprefix("tcp://"))
    if len(addresses) < 2:
        return None
    groups = [f"{handler} at {_some(those, _MOST_ADDRESSES)}" for handler, those in addresses.items()]
    return _some(groups, _MOST_HANDLERS, "; ")


def _some(names: Sequence[str], most: int, between: str = ", ") -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return between.join([*names[:most], *more])


@define
class Commits:
    """What a journal's transactions were like.

    :ivar seconds: how long each took, until it was on the disk.
    :ivar jobs: how many each had.
    :ivar set_aside: how many facts about jobs could not be written, for another reason than the disk.
    """

    seconds: Histogram = field(factory=Histogram)
    jobs: Histogram = field(factory=lambda: Histogram(histogram.JOBS))
    set_aside: int = 0

    def observe(self, seconds: float, jobs: int) -> None:
        """There was one more."""
        self.seconds.observe([seconds])
        self.jobs.observe([jobs])


#: What is counted of each refusal. A `JournalFull` is a `JournalError`: the first that fits is it.
_REASONS: Sequence[tuple[type[Refused], str]] = (
    (Full, "full"),
    (Draining, "draining"),
    (TooLarge, "too_large"),
    (JournalFull, "journal_full"),
    (JournalError, "journal"),
    (KeyReused, "key_reused"),
    (KeysFull, "keys_full"),
)


@define
class Measures:
    """What is counted in this process. See `Stats`.

    :ivar settle: from a job's acceptance until it was settled, in seconds.
    :ivar timings: what the workers have measured.
    :ivar commits: of the journal.
    """

    accepted: int = 0
    refused: dict[str, int] = field(factory=lambda: {reason: 0 for _, reason in _REASONS})
    done: int = 0
    dead: int = 0
    failed: int = 0
    redeliveries: dict[Cause, int] = field(factory=lambda: dict.fromkeys(Cause, 0))
    bad_messages: int = 0
    settle: Histogram = field(factory=Histogram)
    timings: Timings = field(factory=Timings)
    commits: Commits = field(factory=Commits)

    @property
    def redelivered(self) -> int:
        """How often a job was handed out that had been before."""
        return sum(self.redeliveries.values())

    def refuse(self, error: BaseException | None, jobs: int) -> None:
        """So many jobs were refused; if it is a refusal, and not a mistake of who pushed."""
        for kind, reason in _REASONS:
            if isinstance(error, kind):
                self.refused[reason] += jobs
                return


#: What is counted of anything, by name: numbers that only grow.
Counts: TypeAlias = "dict[str, Sequence[int]]"


class Recent:
    """What was counted up to the beginning of each of the last `PERIOD` seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Counts]] = deque(maxlen=PERIOD + 1)

    def note(self, now: float, counts: Counts) -> None:
        """A second has begun.

        :param now: by a monotonic clock.
        :param counts: the same names each time.
        """
        self._samples.append((now, counts))

    def rate(self, name: str) -> float:
        """By how much this has grown in the last second."""
        if len(self._samples) < 2:
            return 0.0
        (before, earlier), (now, later) = self._samples[-2], self._samples[-1]
        return sum(_grown(earlier, later, name)) / (now - before) if now > before else 0.0

    def grown(self, name: str) -> list[int]:
        """By how much each of these numbers has grown in the last `PERIOD` seconds."""
        if len(self._samples) < 2:
            return []
        return _grown(self._samples[0][1], self._samples[-1][1], name)

    def percentiles(self, name: str) -> Percentiles:
        """Of the last `PERIOD` seconds. The counts of that name are those of a histogram of seconds."""
        grown = self.grown(name)
        if not grown:
            return Percentiles()
        times = Histogram(counts=grown)
        return Percentiles(*map(times.quantile, (0.5, 0.9, 0.99)))


def _grown(earlier: Counts, later: Counts, name: str) -> list[int]:
    return [after - before for before, after in zip(earlier[name], later[name], strict=True)]
