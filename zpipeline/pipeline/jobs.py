"""All unsettled jobs: those in memory, with the dispatcher, and those in the store alone.

Only so many are in memory (`MOST`, `MOST_BYTES`, and as many that wait for another attempt): the rest is read from the
store, in order, as these become few. What a store is asked is answered in the order of asking; so when a page that was
the last has come, jobs that were accepted after it was asked for come after it, and go straight to the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeAlias

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline import protocol, retries
from zpipeline.admission import Admission
from zpipeline.dispatch import Dispatcher, FailedAttempt, Fate
from zpipeline.entry import Entry, Session
from zpipeline.errors import ProtocolError
from zpipeline.job import make_id
from zpipeline.pipeline.waiting import Waiting
from zpipeline.stats import Measures
from zpipeline.store import Facts, Key, Letter, Outcome, Selection, Status, Store, Summary, Tried, state_of_waiting
from zpipeline.text import printable, printable_lines
from zpipeline.times import Times

#: In memory there are no more than about so many jobs that were never handed out, and bytes of their bodies.
MOST = 10_000
MOST_BYTES = 16 << 20

#: In a sequence number, below the number of the opening.
_COUNT_BITS = 40

#: Jobs of the store, in order, and whether there are more.
Page: TypeAlias = tuple[list[Entry], bool]

log = Logger()


class Jobs:
    """The unsettled jobs of one ventilator. It is its store's `zpipeline.store.StoreOwner`.

    :ivar wake: to be called when there may be something to hand out, or nothing left to wait for.
    :ivar ventilator: its number.
    :ivar epoch: how often its store was opened.
    :ivar waiting: who waits for jobs to be settled.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        admission: Admission,
        measures: Measures,
        wake: Callable[[], None],
        times: Times,
    ) -> None:
        self.ventilator = 0
        self.epoch = 0
        self.admission = admission
        self._store = store
        self._dispatcher = dispatcher
        self._measures = measures
        self.wake = wake
        self._times = times
        self.waiting = Waiting(store.outcome)
        self._sequences = count(1)
        self._newest = 0  # that was accepted
        self._cursor = 0  # the newest that has been in memory before its first attempt
        self._behind = False  # newer ones are in the store alone
        self._page_awaited = False
        self._settled_since: list[set[int]] = []  # for each page that is on its way: since it was asked for

    @property
    def unsettled(self) -> int:
        """How many there are, those that are being written down included."""
        return self.admission.jobs

    @property
    def survive(self) -> bool:
        """Whether they outlive the process."""
        return not self._store.holds_all

    @property
    def dead_letters(self) -> int:
        """How many there are."""
        return self._store.dead

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written now."""
        return self._store.trouble

    def open(self) -> None:
        """Open the store.

        :raises UsageError: it cannot be opened.
        """
        opened = self._store.open(self)
        self.ventilator = opened.ventilator
        self.epoch = opened.epoch
        self._newest = opened.epoch << _COUNT_BITS
        self._sequences = count(self._newest | 1)
        self.admission.add(opened.pending, opened.pending_bytes)
        if opened.pending:
            self._behind = True
            self._dispatcher.retries.load_all()

    def close(self) -> Deferred[int]:
        """Close the store: how many facts could not be written."""
        return self._store.close()

    # Jobs come

    def admit(self, bodies: Sequence[bytes], headers: bytes) -> list[Entry]:
        """Jobs with these bodies. They count from now on: `accept` must follow.

        :raises Full: they are too many.
        """
        self.admission.admit(len(bodies), sum(map(len, bodies)))
        now = self._times.time()
        # in this order: zip takes a number only when there is a body
        return [Entry(number, body, headers, now) for body, number in zip(bodies, self._sequences, strict=False)]

    def accept(self, entries: list[Entry], key: Key | None = None) -> Deferred[list[int]]:
        """Take these jobs: their numbers, once they are in the store; or that of the job that had the key before.

        Whoever waits may cancel that: the jobs are accepted nevertheless.

        :param entries: as `admit` made them, in the same order.
        :raises Refused: (by the Deferred) as `zpipeline.store.Store.accept`.
        """
        size = sum([len(entry.body) for entry in entries])
        numbers: Deferred[list[int]] = Deferred()
        self._store.accept(entries, key).addCallbacks(
            self._accepted, self._refused, callbackArgs=(entries, size, numbers), errbackArgs=(entries, size, numbers)
        )
        return numbers

    def _accepted(self, holder: int | None, entries: list[Entry], size: int, numbers: Deferred[list[int]]) -> None:
        if holder is None:
            self._measures.accepted += len(entries)
            if entries:
                self._newest = entries[-1].sequence
            self._take(entries)
            self.wake()
            numbers.callback([entry.sequence for entry in entries])
        else:
            self._take_off(len(entries), size)
            numbers.callback([holder])

    def _refused(self, failure: Failure, entries: list[Entry], size: int, numbers: Deferred[list[int]]) -> None:
        self._measures.refuse(failure.value, len(entries))
        self._take_off(len(entries), size)
        numbers.errback(failure)

    def _take(self, entries: list[Entry]) -> None:
        if self._behind:
            return
        dispatcher = self._dispatcher
        if not self._store.holds_all:
            room = max(0, MOST - dispatcher.fresh) if dispatcher.fresh_bytes <= MOST_BYTES else 0
            self._behind = room < len(entries)
            entries = entries[:room]
        if entries:
            self._cursor = entries[-1].sequence
            dispatcher.add(entries)

    def _take_off(self, jobs: int, size: int) -> None:
        self.admission.remove(jobs, size)
        self.wake()

    # Jobs go out

    def hand_out(self) -> list[tuple[Session, list[Entry]]]:
        """Who gets what, now."""
        if self._store.congested:
            return []
        given = self._dispatcher.assign(self._times.monotonic(), self._times.time())
        self._read_pages()
        return given

    def _read_pages(self) -> None:
        dispatcher = self._dispatcher
        is_low = dispatcher.fresh <= MOST // 2 and dispatcher.fresh_bytes <= MOST_BYTES // 2
        if self._behind and is_low and not self._page_awaited:
            self._page_awaited = True
            room, room_bytes = MOST - dispatcher.fresh, MOST_BYTES - dispatcher.fresh_bytes
            self._read(self._store.load(self._cursor, room, room_bytes), self._page_came, self._page_failed)
        after = dispatcher.retries.ask_for_page()
        if after is not None:
            page = self._store.load_retries(after, retries.MOST // 2, retries.MOST_BYTES // 2)
            self._read(page, self._retries_came, self._retries_failed)

    def _read(
        self, page: Deferred[Page], came: Callable[[Page, set[int]], None], failed: Callable[[Failure], None]
    ) -> None:
        """Have a page come, and with it the numbers that were settled since: it may have been read before that."""
        settled: set[int] = set()
        self._settled_since.append(settled)

        def ended(outcome: Page | Failure) -> Page | Failure:
            self._settled_since = [others for others in self._settled_since if others is not settled]
            return outcome

        page.addBoth(ended).addCallbacks(came, failed, callbackArgs=(settled,))

    def _page_came(self, page: Page, settled: set[int]) -> None:
        entries, self._behind = page
        self._page_awaited = False
        if entries:
            self._cursor = entries[-1].sequence
            self._dispatcher.add([entry for entry in entries if entry.sequence not in settled])
        self.wake()

    def _page_failed(self, failure: Failure) -> None:
        self._page_awaited = False  # it is asked for again when the store has recovered

    def _retries_came(self, page: Page, settled: set[int]) -> None:
        entries, more = page
        last = None
        if more:
            assert entries[-1].due is not None
            last = entries[-1].due, entries[-1].sequence
        self._dispatcher.add_retries([entry for entry in entries if entry.sequence not in settled], last)
        self.wake()

    def _retries_failed(self, failure: Failure) -> None:
        self._dispatcher.retries.page_failed()

    # What happens to them

    def done(self, session: Session | None, sequences: Sequence[int], results: Sequence[protocol.Result] = ()) -> int:
        """These have been run: how many of those in memory that settles.

        :param results: of each; empty when none has returned anything.
        """
        at = self._times.time()
        settled = self._dispatcher.done(session, sequences, self._times.monotonic(), at)
        facts = Facts(done=settled)
        if len(settled) < len(sequences) and self._are_elsewhere:
            here = {entry.sequence for entry in settled}
            facts.elsewhere += [(sequence, at) for sequence in sequences if sequence not in here]
        if facts:
            if results:
                facts.results = _to_keep(sequences, results)
            self._store.note(facts)
            self._are_settled(sequences)
            if self.waiting:
                self.waiting.settled(sequences)
        if settled:
            self._measures.done += len(settled)
            self._measures.settle.observe([at - entry.accepted_at for entry in settled])
            self._take_off(len(settled), sum([len(entry.body) for entry in settled]))
        return len(settled)

    def _are_settled(self, sequences: Sequence[int]) -> None:
        for settled in self._settled_since:
            settled.update(sequences)

    @property
    def _are_elsewhere(self) -> bool:
        """Whether there are jobs that are in the store alone."""
        return self._behind or self._page_awaited or self._dispatcher.retries.horizon is not None

    def failed(self, session: Session | None, failed: protocol.Failed, handler: str) -> bool:
        """The handler of this one failed: whether that counts."""
        attempt = FailedAttempt(
            failed.reason, failed.kind == protocol.REJECT, None if failed.delay < 0 else failed.delay
        )
        entry = self._dispatcher.failed(session, failed.sequence, attempt, self._times.monotonic(), self._times.time())
        if entry is None:
            return False
        self._measures.failed += 1
        self._has_failed(entry, handler, failed.traceback)
        return True

    def verdict(self, session: int, fate: Fate, handler: str) -> bool:
        """What became of the process of this lost session: whether an attempt has failed by that."""
        entry = self._dispatcher.verdict(session, fate, self._times.time())
        has_failed = entry is not None and fate is Fate.OVERDUE
        self._measures.failed += has_failed
        if entry is not None:
            self._has_failed(entry, handler, "")
        self.wake()
        return has_failed

    def _has_failed(self, entry: Entry, handler: str, traceback: str) -> None:
        assert entry.error is not None
        if entry.settled_at is None:
            assert entry.due is not None
            tried = Tried(entry.attempt, entry.strikes, entry.due, entry.error, entry.sequence)
            self._store.note(Facts(tried=[tried]))
            return
        summary = Summary(
            entry.sequence,
            entry.accepted_at,
            entry.settled_at,
            entry.attempt,
            entry.strikes,
            handler,
            entry.error,
            len(entry.body),
        )
        self._store.note(Facts(dead=[Letter(summary, entry.body, entry.headers, traceback)]))
        self._are_settled([entry.sequence])
        self.waiting.settled([entry.sequence])
        self._measures.dead += 1
        self._measures.settle.observe([entry.settled_at - entry.accepted_at])
        job_id = make_id(self.ventilator, entry.sequence)
        # a job that killed its workers has no traceback
        reason, where = printable(entry.error), f"\n{printable_lines(traceback)}" if traceback else ""
        log.error("job {id} is dead: {reason}{traceback}", id=job_id, reason=reason, traceback=where)
        self._take_off(1, len(entry.body))

    # StoreOwner

    def settled_elsewhere(self, jobs: Sequence[tuple[int, int]]) -> None:
        """These were in the store alone, and have been run."""
        # some may have been read since
        read = [sequence for sequence, _ in jobs if self._dispatcher.entry(sequence) is not None]
        self._dispatcher.done(None, read, self._times.monotonic(), self._times.time())
        self._measures.done += len(jobs)
        self._take_off(len(jobs), sum(size for _, size in jobs))

    def store_recovered(self) -> None:
        """Go on."""
        self.waiting.settled([sequence for sequence in self.waiting if self._dispatcher.entry(sequence) is None])
        self.wake()

    # Questions

    def status(self, sequence: int) -> Deferred[Status | None] | Status:
        """What is known of a job."""
        status = self._status(sequence)
        return self._store.status(sequence) if status is None else status

    def _status(self, sequence: int) -> Status | None:
        """What is known of a job that is in memory."""
        entry = self._dispatcher.entry(sequence)
        if entry is None:
            return None
        waiting = state_of_waiting(entry.due, entry.error)
        return Status(
            waiting if entry.holder is None else "in flight", entry.attempt, entry.accepted_at, None, entry.error
        )

    def outcome(self, sequence: int) -> Deferred[Outcome | None]:
        """What has come of a job."""
        status = self._status(sequence)
        return self._store.outcome(sequence, self._times.time()) if status is None else succeed(Outcome(status))

    def has_accepted(self, sequence: int) -> bool:
        """Whether a job of this number may ever have been: those of earlier openings are not known one by one."""
        return 0 < sequence <= self._newest

    def check_numbers(self, sequences: Sequence[int]) -> None:
        """These may all be numbers of jobs that were accepted: none is higher than that of the newest.

        A worker may report any number of 64 bits, and the journal can hold those of 63.

        :raises ProtocolError: they are not.
        """
        highest = max(sequences)
        if highest > self._newest:
            raise ProtocolError(f"it names job number {highest}, and none of so high a number was accepted here")

    def letters(self, after: int, most: int) -> Deferred[list[Summary]]:
        """Dead letters of higher numbers than `after`, in order."""
        return self._store.letters(after, most)

    def letter(self, sequence: int) -> Deferred[Letter | None]:
        """One dead letter."""
        return self._store.letter(sequence)

    async def revive(self, selection: Selection) -> int:
        """Take dead letters for jobs again: how many there were."""
        revived = 0
        more = True
        while more:
            entries, more = await self._revive_some(selection)
            revived += len(entries)
            if more:
                selection = evolve(selection, after=entries[-1].sequence)
        return revived

    def _revive_some(self, selection: Selection) -> Deferred[tuple[list[Entry], bool]]:
        outcome: Deferred[tuple[list[Entry], bool]] = Deferred()

        def revived(page: tuple[list[Entry], bool]) -> None:
            entries, _ = page
            self.admission.add(len(entries), sum([len(entry.body) for entry in entries]))
            for entry in entries:
                self._dispatcher.add_retry(entry)
            self.wake()
            outcome.callback(page)

        self._store.revive(selection, self._times.time()).addCallbacks(revived, outcome.errback)
        return outcome

    def drop(self, sequence: int) -> Deferred[bool]:
        """Throw a dead letter away: whether there was one."""
        return self._store.drop(sequence)


def _to_keep(sequences: Sequence[int], results: Sequence[protocol.Result]) -> dict[int, bytes]:
    """What is kept of these results, packed."""
    kept = {}
    for sequence, result in zip(sequences, results, strict=True):
        if result is None:
            continue
        packed = protocol.pack_result(result)
        if len(packed) > protocol.MAX_RESULT + 1:
            reason = f"{len(packed) - 1} bytes are over {protocol.MAX_RESULT}"
            packed = protocol.pack_result(protocol.Dropped(reason))
        kept[sequence] = packed
    return kept
