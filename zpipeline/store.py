"""Where a pipeline keeps its jobs: what it asks of a journal (`zpipeline.journal`), or of memory (`zpipeline.memory`).

Jobs are in the store from the moment when they are accepted until they are settled. What happens to them is noted in
it as facts, which cannot fail: they are kept until they can be written. Everything that is asked of a store, and fires
a Deferred, finds what was noted before, and is answered in the order in which it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from zpipeline.entry import Entry
from zpipeline.errors import KeyReused, KeysFull
from zpipeline.retries import Key as Due


@frozen
class Opened:
    """What is known of a store from the beginning.

    :ivar ventilator: its number, 64 bits.
    :ivar epoch: goes up with each opening.
    :ivar pending: unsettled jobs.
    :ivar pending_bytes: of their bodies together.
    :ivar skew: as it was last kept (`Store.keep_skew`).
    :ivar latest: a moment that had been reached when the store was last open, by its own times.
    """

    ventilator: int
    epoch: int
    pending: int = 0
    pending_bytes: int = 0
    skew: float = 0.0
    latest: float = 0.0


@frozen
class Limits:
    """How much a store keeps, and for how long.

    :ivar keep: settled jobs, and idempotency keys once their jobs are settled, in seconds.
    :ivar most_settled: how many settled jobs.
    :ivar most_keys: how many idempotency keys.
    :ivar most_result_bytes: of results together. A result is kept for as long as its job, if there is room.
    """

    keep: float
    most_settled: int
    most_keys: int
    most_result_bytes: int

    def check_keys(self, kept: int) -> None:
        """There is to be another idempotency key.

        :param kept: how many there are.
        :raises KeysFull: they are as many as may be.
        """
        if kept >= self.most_keys:
            raise KeysFull(f"{self.most_keys} idempotency keys are kept: try again later, or without a key")


@frozen
class Key:
    """An idempotency key.

    :ivar name: what the client calls it.
    :ivar fingerprint: of the request; another one under the same key is an error.
    """

    name: str
    fingerprint: bytes

    def check(self, fingerprint: bytes) -> None:
        """The key is kept already, with this fingerprint.

        :raises KeyReused: it was that of another request.
        """
        if fingerprint != self.fingerprint:
            raise KeyReused(f"the idempotency key {self.name!r} was that of another request: choose a new one")


class Status(NamedTuple):
    """What a store knows of a job.

    :ivar state: ``"waiting"``, ``"retrying"``, ``"done"`` or ``"dead"``.
    """

    state: str
    attempts: int
    accepted_at: float
    settled_at: float | None
    error: str | None


class Outcome(NamedTuple):
    """What has come of a job.

    :ivar returned: whether it is done, and its handler has returned something.
    :ivar result: that, as `zpipeline.protocol.pack_result` has it; None when it is not kept any longer.
    """

    status: Status
    returned: bool = False
    result: bytes | None = None


def state_of_waiting(due: float | None, error: str | None) -> str:
    """The state of a job that waits; one that was a dead letter is due, but has not failed since."""
    return "waiting" if due is None or error is None else "retrying"


class Summary(NamedTuple):
    """A dead letter, in short. See `zpipeline.job.DeadLetterSummary`."""

    sequence: int
    accepted_at: float
    settled_at: float
    attempts: int
    strikes: int
    handler: str
    error: str
    size: int


class Letter(NamedTuple):
    """A dead letter. See `zpipeline.job.DeadLetter`."""

    summary: Summary
    body: bytes
    headers: bytes
    traceback: str


@frozen
class Selection:
    """Dead letters with numbers above `after` and up to `last`.

    :ivar handler: only those whose last attempt was made by it; None for all.
    :ivar error: only those with this text in their error; None for all.
    """

    after: int = 0
    last: int = (1 << 63) - 1
    handler: str | None = None
    error: str | None = None


class Tried(NamedTuple):
    """A job that waits for another attempt, because it failed or was struck."""

    attempt: int
    strikes: int
    due: float
    error: str | None
    sequence: int


@define
class Facts:
    """What has happened to jobs.

    :ivar tried: jobs that are due for another attempt, or were struck.
    :ivar done: jobs that have been run.
    :ivar elsewhere: jobs that have been run, it is said, and are not in memory: their numbers, and when.
    :ivar dead: jobs that are dead.
    :ivar results: what some of `done` and `elsewhere` have returned, by their numbers, as
        `zpipeline.protocol.pack_result` has it.
    """

    tried: list[Tried] = field(factory=list)
    done: list[Entry] = field(factory=list)
    elsewhere: list[tuple[int, float]] = field(factory=list)
    dead: list[Letter] = field(factory=list)
    results: dict[int, bytes] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.tried) + len(self.done) + len(self.elsewhere) + len(self.dead)

    def add(self, later: Facts) -> None:
        """Add what happened after these."""
        self.tried += later.tried
        self.done += later.done
        self.elsewhere += later.elsewhere
        self.dead += later.dead
        for sequence, result in later.results.items():
            self.results.setdefault(sequence, result)  # of a job that was done twice, what was heard of first

    def sequences(self) -> list[int]:
        """The numbers of the jobs, fact by fact."""
        return [
            *(tried.sequence for tried in self.tried),
            *(entry.sequence for entry in self.done),
            *(sequence for sequence, _ in self.elsewhere),
            *(letter.summary.sequence for letter in self.dead),
        ]

    def singles(self) -> list[Facts]:
        """Each fact by itself."""
        return [
            *(Facts(tried=[tried]) for tried in self.tried),
            *(Facts(done=[entry], results=self._result_of(entry.sequence)) for entry in self.done),
            *(Facts(elsewhere=[job], results=self._result_of(job[0])) for job in self.elsewhere),
            *(Facts(dead=[letter]) for letter in self.dead),
        ]

    def _result_of(self, sequence: int) -> dict[int, bytes]:
        return {sequence: self.results[sequence]} if sequence in self.results else {}

    @classmethod
    def together(cls, some: Iterable[Facts]) -> Facts:
        """All of these, in order."""
        facts = cls()
        for each in some:
            facts.add(each)
        return facts

    @property
    def result_bytes(self) -> int:
        """Of the results together."""
        return sum(map(len, self.results.values()))


class StoreOwner(Protocol):
    """Who is told what a store comes to know. All of it in the reactor's thread."""

    def settled_elsewhere(self, jobs: Sequence[tuple[int, int]]) -> None:
        """Of the facts `elsewhere`, these jobs were unsettled till now: their numbers, and their bodies' sizes."""

    def store_recovered(self) -> None:
        """It can be written again, after some trouble."""


class Store(Protocol):
    """Where jobs are kept.

    :ivar holds_all: whether nothing outlives the process, and all unsettled jobs are to stay with the dispatcher; else
        those that wait may be left to the store, and read again by `load` and `load_retries`.
    """

    holds_all: bool

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written now."""

    @property
    def dead(self) -> int:
        """How many dead letters there are."""

    @property
    def congested(self) -> bool:
        """Whether nothing more should happen: too much of what has happened could not be written."""

    def open(self, owner: StoreOwner) -> Opened:
        """Make ready. Blocks, for milliseconds.

        :raises UsageError: it cannot be opened.
        """

    def accept(self, entries: Sequence[Entry], key: Key | None) -> Deferred[int | None]:
        """Keep these jobs, all or none: fires with None when they are kept.

        With a key, for one job: with the number of the job that had the key before, if there is one; then nothing is
        kept.

        :raises JournalError: they cannot be written.
        :raises KeyReused: the key was that of another request.
        :raises KeysFull: there are too many keys.
        """

    def note(self, facts: Facts) -> None:
        """This has happened."""

    def load(self, after: int, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        """Jobs that wait for their first attempt, of higher numbers than `after`, in order; and whether there are more.

        :param most_bytes: of bodies, about.
        """

    def load_retries(self, after: Due, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        """Jobs that wait for another attempt, due after `after`, in order; and whether there are more."""

    def status(self, sequence: int) -> Deferred[Status | None]:
        """What is known of a job that is not in memory."""

    def outcome(self, sequence: int, at: float) -> Deferred[Outcome | None]:
        """What has come of a job that is not in memory, as it is to be kept until `at`."""

    def letters(self, after: int, most: int) -> Deferred[list[Summary]]:
        """Dead letters of higher numbers than `after`, in order."""

    def letter(self, sequence: int) -> Deferred[Letter | None]:
        """One dead letter."""

    def revive(self, selection: Selection, at: float) -> Deferred[tuple[list[Entry], bool]]:
        """Take these dead letters for jobs again, due `at`: which they are; and whether there are more to select."""

    def drop(self, sequence: int) -> Deferred[bool]:
        """Throw a dead letter away: whether there was one."""

    def keep_skew(self, skew: float) -> Deferred[None]:
        """Keep how far the system's clock is ahead of the times in this store (`zpipeline.times.Times`)."""

    def close(self) -> Deferred[int]:
        """Write what is left, and end: how many facts could not be written."""
