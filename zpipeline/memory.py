"""A store in memory: what was accepted is kept for as long as the process lives, with the same promises otherwise."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed

from zpipeline.entry import Entry
from zpipeline.errors import Refused
from zpipeline.retries import Key as Due
from zpipeline.store import Facts, Key, Letter, Limits, Opened, Outcome, Selection, Status, StoreOwner, Summary
from zpipeline.times import Times


class Memory:
    """A `zpipeline.store.Store` without a file. Unsettled jobs are with the dispatcher, all of them."""

    holds_all = True
    trouble = None
    congested = False

    def __init__(self, limits: Limits, times: Times) -> None:
        self._limits = limits
        self._times = times
        self._ventilator = secrets.randbits(64)
        #: What `Status` has of each that is kept, and their numbers in the order in which they go.
        self._settled: dict[int, tuple[str, int, float, float, str | None]] = {}
        self._oldest: deque[int] = deque()
        #: Jobs that are in that row from before they were revived, and how often.
        self._revived: Counter[int] = Counter()
        #: What was returned, the first to be settled first; and of which jobs there was no room for that any longer.
        self._results: OrderedDict[int, bytes] = OrderedDict()
        self._result_bytes = 0
        self._results_gone: set[int] = set()
        self._dead: dict[int, Letter] = {}
        self._keys: dict[str, tuple[bytes, int]] = {}
        self._key_of: dict[int, str] = {}
        #: Keys whose jobs are settled, and when they expire: the first to expire first.
        self._expiring: OrderedDict[str, float] = OrderedDict()

    @property
    def dead(self) -> int:
        """See `zpipeline.store.Store.dead`."""
        return len(self._dead)

    def open(self, owner: StoreOwner) -> Opened:
        """See `zpipeline.store.Store.open`."""
        return Opened(self._ventilator, 0)

    def accept(self, entries: Sequence[Entry], key: Key | None) -> Deferred[int | None]:
        """See `zpipeline.store.Store.accept`."""
        if key is None:
            return succeed(None)
        try:
            return succeed(self._take_key(key, entries[0].sequence))
        except Refused:
            return fail()

    def _take_key(self, key: Key, sequence: int) -> int | None:
        self._forget_keys()
        if key.name in self._keys:
            fingerprint, holder = self._keys[key.name]
            key.check(fingerprint)
            return holder
        self._limits.check_keys(len(self._keys))
        self._keys[key.name] = key.fingerprint, sequence
        self._key_of[sequence] = key.name
        return None

    def _forget_keys(self) -> None:
        now = self._times.time()
        while self._expiring and next(iter(self._expiring.values())) < now:
            name, _ = self._expiring.popitem(last=False)
            del self._key_of[self._keys.pop(name)[1]]

    def note(self, facts: Facts) -> None:
        """See `zpipeline.store.Store.note`."""
        if facts.results:
            self._keep_results({entry.sequence: facts.results.get(entry.sequence) for entry in facts.done})
        self._settle(
            [entry.sequence for entry in facts.done],
            [("done", entry.attempt, entry.accepted_at, entry.settled_at or 0.0, None) for entry in facts.done],
        )
        for letter in facts.dead:
            dead = letter.summary
            self._dead[dead.sequence] = letter
            self._settle([dead.sequence], [("dead", dead.attempts, dead.accepted_at, dead.settled_at, dead.error)])

    def _settle(self, sequences: list[int], outcomes: list[tuple[str, int, float, float, str | None]]) -> None:
        self._settled.update(zip(sequences, outcomes, strict=True))
        self._oldest.extend(sequences)
        oldest = [self._oldest.popleft() for _ in range(len(self._oldest) - self._limits.most_settled)]
        if self._revived:
            oldest = [sequence for sequence in oldest if not self._was_revived(sequence)]
        for sequence in oldest:
            self._settled.pop(sequence, None)
        if self._results or self._results_gone:
            for sequence in oldest:
                self._result_bytes -= len(self._results.pop(sequence, b""))
                self._results_gone.discard(sequence)
        if self._key_of:
            for sequence, (_, _, _, settled_at, _) in zip(sequences, outcomes, strict=True):
                if sequence in self._key_of:
                    self._expiring[self._key_of[sequence]] = settled_at + self._limits.keep

    def _was_revived(self, sequence: int) -> bool:
        """Whether this place in the row is from before the job was revived; it is asked once."""
        if sequence not in self._revived:
            return False
        self._revived[sequence] -= 1
        if not self._revived[sequence]:
            del self._revived[sequence]
        return True

    def _keep_results(self, results: dict[int, bytes | None]) -> None:
        for sequence, result in results.items():
            if result is not None:
                self._results[sequence] = result
                self._result_bytes += len(result)
        while self._result_bytes > self._limits.most_result_bytes:
            oldest, result = self._results.popitem(last=False)
            self._result_bytes -= len(result)
            self._results_gone.add(oldest)

    def load(self, after: int, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        """See `zpipeline.store.Store.load`: there are none that are not in memory."""
        return succeed(([], False))

    def load_retries(self, after: Due, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        """See `zpipeline.store.Store.load_retries`: there are none that are not in memory."""
        return succeed(([], False))

    def status(self, sequence: int) -> Deferred[Status | None]:
        """See `zpipeline.store.Store.status`."""
        return succeed(self._status(sequence, self._times.time()))

    def _status(self, sequence: int, at: float) -> Status | None:
        if sequence in self._dead:
            dead = self._dead[sequence].summary
            return Status("dead", dead.attempts, dead.accepted_at, dead.settled_at, dead.error)
        status = self._settled.get(sequence)
        if status is None or status[3] < at - self._limits.keep:
            return None
        return Status(*status)

    def outcome(self, sequence: int, at: float) -> Deferred[Outcome | None]:
        """See `zpipeline.store.Store.outcome`."""
        status = self._status(sequence, at)
        if status is None:
            return succeed(None)
        result = self._results.get(sequence)
        return succeed(Outcome(status, result is not None or sequence in self._results_gone, result))

    def letters(self, after: int, most: int) -> Deferred[list[Summary]]:
        """See `zpipeline.store.Store.letters`."""
        return succeed([self._dead[sequence].summary for sequence in sorted(self._dead) if sequence > after][:most])

    def letter(self, sequence: int) -> Deferred[Letter | None]:
        """See `zpipeline.store.Store.letter`."""
        return succeed(self._dead.get(sequence))

    def revive(self, selection: Selection, at: float) -> Deferred[tuple[list[Entry], bool]]:
        """See `zpipeline.store.Store.revive`."""
        entries = []
        for letter in sorted(self._dead.values()):
            dead = letter.summary
            if (
                selection.after < dead.sequence <= selection.last
                and selection.handler in (None, dead.handler)
                and (selection.error is None or selection.error in dead.error)
            ):
                del self._dead[dead.sequence]
                if self._settled.pop(dead.sequence, None) is not None:
                    self._revived[dead.sequence] += 1
                if dead.sequence in self._key_of:
                    self._expiring.pop(self._key_of[dead.sequence], None)
                entries.append(Entry(dead.sequence, letter.body, letter.headers, dead.accepted_at, due=at))
        return succeed((entries, False))

    def drop(self, sequence: int) -> Deferred[bool]:
        """See `zpipeline.store.Store.drop`."""
        return succeed(self._dead.pop(sequence, None) is not None)

    def keep_skew(self, skew: float) -> Deferred[None]:
        """See `zpipeline.store.Store.keep_skew`: nothing outlives the process."""
        return succeed(None)

    def close(self) -> Deferred[int]:
        """See `zpipeline.store.Store.close`: there is nothing to write."""
        return succeed(0)
