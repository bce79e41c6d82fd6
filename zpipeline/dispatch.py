"""Who gets which job, and what happens when one is lost. Pure: no sockets, no Twisted, no clock.

The rules that this module keeps:

1. Round-robin over the ready workers that have room in their window. While no window is full, the
   counts of any run of jobs differ by one at most between workers.
2. A window is a number of jobs (`zpipeline.window`) and of bytes (`WINDOW_BYTES`); a worker that has nothing in flight
   always has room for one job.
3. No worker has room: jobs wait, in the order of their acceptance.
4. The bounds on unsettled jobs are reached: `accept` raises `Full`, and takes nothing.
5. A session is lost: its jobs go back to the front, in order, at once.
6. DONE settles a job that is not settled yet, whichever of this ventilator's sessions it comes from: the work is
   done. FAILED and RETURNED count only for the delivery that is in flight. All else is counted in `late`.
7. Without faults no job is handed out twice.

A job is in exactly one place: waiting (`holder` is None), in flight in one session (its `holder`), or settled
and no longer known here. Everything that must be decided about a job that was not simply done is decided in
`_fail` and `_take_back`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from zpipeline.errors import Full
from zpipeline.window import Window

WINDOW_BYTES = 64 << 20


class Entry:
    """One unsettled job.

    :ivar headers: as they travel, see `zpipeline.job.encode_headers`.
    :ivar holder: the session that it is in flight in; None while it waits.
    :ivar settled_at: when it was settled, in seconds since the epoch; None before.
    :ivar error: why it is dead; None where it is not.
    """

    __slots__ = ("accepted_at", "attempt", "body", "error", "headers", "holder", "sequence", "settled_at")

    def __init__(self, sequence: int, body: bytes, headers: bytes, accepted_at: float) -> None:
        self.sequence = sequence
        self.body = body
        self.headers = headers
        self.accepted_at = accepted_at
        self.attempt = 1
        self.holder: Session | None = None
        self.settled_at: float | None = None
        self.error: str | None = None

    def __lt__(self, other: Entry) -> bool:
        return self.sequence < other.sequence


class Session:
    """One ready worker.

    :ivar in_flight: its jobs, by sequence number.
    :ivar leaving: it gets nothing new: it has said BYE.
    :ivar paused: it gets nothing new for now: its socket takes nothing.
    :ivar reports: messages of DONE, FAILED and RETURNED that have come in this session.
    """

    __slots__ = ("bytes", "in_flight", "leaving", "number", "paused", "reports", "window")

    def __init__(self, number: int, window: Window) -> None:
        self.number = number
        self.window = window
        self.in_flight: dict[int, Entry] = {}
        self.bytes = 0
        self.leaving = False
        self.paused = False
        self.reports = 0


class Dispatcher:
    """All unsettled jobs and all ready workers of one ventilator.

    :param max_pending: how many unsettled jobs there may be.
    :param max_bytes: how many bytes their bodies may have together.
    :param window: jobs in flight at each worker; None lets each window size itself.
    """

    def __init__(self, *, max_pending: int, max_bytes: int, window: int | None = None) -> None:
        self.max_pending = max_pending
        self.max_bytes = max_bytes
        self.window = window
        self.bytes = 0
        self.late = 0
        self._entries: dict[int, Entry] = {}
        self._fresh: deque[Entry] = deque()  # never handed out, in order
        self._back: list[Entry] = []  # handed out once: a heap, all of it before the fresh ones
        self._sessions: dict[int, Session] = {}
        self._ring: list[Session] = []  # those that may get jobs; the next in turn is the first

    # What is known

    @property
    def pending(self) -> int:
        """How many jobs are unsettled."""
        return len(self._entries)

    @property
    def in_flight(self) -> int:
        """How many jobs are at workers."""
        return sum(len(session.in_flight) for session in self._sessions.values())

    @property
    def ready_workers(self) -> int:
        """How many workers take part: ready, and not leaving."""
        return sum(not session.leaving for session in self._sessions.values())

    @property
    def full(self) -> bool:
        """Whether one more job would be one too many."""
        return self.pending >= self.max_pending or self.bytes >= self.max_bytes

    def entry(self, sequence: int) -> Entry | None:
        """The unsettled job of that number."""
        return self._entries.get(sequence)

    def session(self, number: int) -> Session | None:
        """The ready worker of that session."""
        return self._sessions.get(number)

    # Jobs come

    def accept(self, entries: Sequence[Entry]) -> None:
        """Take these jobs, whose numbers are higher than any before: all of them or none.

        :raises Full: rule 4.
        """
        size = sum([len(entry.body) for entry in entries])
        if self.pending + len(entries) > self.max_pending:
            raise Full(f"{self.pending} jobs are unsettled, and {self.max_pending} may be: try again later")
        if self.bytes + size > self.max_bytes:
            raise Full(f"unsettled jobs hold {self.bytes} bytes, and may hold {self.max_bytes}: try again later")
        self.bytes += size
        self._fresh.extend(entries)
        for entry in entries:
            self._entries[entry.sequence] = entry

    # Workers come and go

    def ready(self, number: int, concurrency: int) -> Session:
        """A worker takes part from now on, after all others in turn."""
        session = self._sessions[number] = Session(number, Window(concurrency, self.window))
        self._ring.append(session)
        return session

    def leave(self, session: Session) -> None:
        """The worker gets nothing new, and keeps what is in flight."""
        if not session.leaving:
            session.leaving = True
            if not session.paused:
                self._ring.remove(session)

    def pause(self, session: Session, paused: bool) -> None:
        """Its socket takes nothing for now, or takes something again."""
        if paused != session.paused:
            session.paused = paused
            if not session.leaving:
                (self._ring.remove if paused else self._ring.append)(session)

    def lose(self, session: Session) -> int:
        """Rule 5. How many jobs go back to the front."""
        if not session.leaving and not session.paused:
            self._ring.remove(session)
        del self._sessions[session.number]
        lost = list(session.in_flight.values())
        for entry in lost:
            self._take_back(entry)
        return len(lost)

    # Jobs go out

    def assign(self, now: float) -> list[tuple[Session, list[Entry]]]:
        """Rules 1 to 3: who gets what, now. What is returned counts as in flight."""
        turn = deque([(session, session.window.size(now)) for session in self._ring])
        given: dict[Session, list[Entry]] = {}
        last: Session | None = None
        passed = 0  # workers in a row that have no room for the bytes of this job, and may have it for the next
        while passed < len(turn):
            entry = self._peek()
            if entry is None:
                break
            session, size = turn[0]
            in_flight = session.in_flight
            if in_flight:
                if len(in_flight) >= size:
                    turn.popleft()
                    continue
                if session.bytes + len(entry.body) > WINDOW_BYTES:
                    turn.rotate(-1)
                    passed += 1
                    continue
            passed = 0
            self._take_peeked()
            batch = given.get(session)
            if batch is None:
                batch = given[session] = []
                session.window.sent(entry.sequence, len(in_flight), now)
            batch.append(entry)
            entry.holder = session
            in_flight[entry.sequence] = entry
            session.bytes += len(entry.body)
            last = session
            turn.rotate(-1)
        if last is not None:
            following = self._ring.index(last) + 1
            self._ring = self._ring[following:] + self._ring[:following]
        return list(given.items())

    # Reports come

    def done(self, session: Session | None, sequences: Iterable[int], now: float, at: float) -> list[Entry]:
        """Rule 6: which jobs this settles.

        :param session: the one that reports; None when it was lost since.
        :param at: the time of settlement, in seconds since the epoch.
        """
        settled = []
        here = 0
        for sequence in sequences:
            entry = self._entries.pop(sequence, None)
            if entry is None:
                self.late += 1
                continue
            if entry.holder is not None:
                if entry.holder is session:
                    here += 1
                self._release(entry)
            self._settle(entry, at)
            settled.append(entry)
        if session is not None:
            session.reports += 1
            if here:
                session.window.settled(here, session.in_flight, now)
        return settled

    def failed(self, session: Session | None, sequence: int, reason: str, now: float, at: float) -> Entry | None:
        """The handler of this job failed: the job, if that settles it."""
        entry = self._reported(session, sequence)
        if entry is None or session is None:
            return None
        self._release(entry)
        session.window.settled(1, session.in_flight, now)
        return self._fail(entry, reason, at)

    def returned(self, session: Session | None, sequences: Iterable[int]) -> int:
        """The worker gives these back, not begun: how many wait again."""
        if session is not None:
            session.reports += 1
            session.window.given_back()
        back = 0
        for sequence in sequences:
            entry = self._entries.get(sequence)
            if entry is None or session is None or entry.holder is not session:
                self.late += 1
                continue
            self._release(entry)
            self._take_back(entry)
            back += 1
        return back

    def state(self, session: Session, concurrency: int, sent: int) -> bool:
        """What the worker counts: False when reports of this session went missing on their way."""
        session.window.concurrency = concurrency
        return sent <= session.reports

    # What happens to a job

    def _reported(self, session: Session | None, sequence: int) -> Entry | None:
        if session is not None:
            session.reports += 1
        entry = self._entries.get(sequence)
        if entry is None or session is None or entry.holder is not session:
            self.late += 1
            return None
        return entry

    def _fail(self, entry: Entry, reason: str, at: float) -> Entry:
        entry.error = reason
        del self._entries[entry.sequence]
        self._settle(entry, at)
        return entry

    def _settle(self, entry: Entry, at: float) -> None:
        self.bytes -= len(entry.body)
        entry.settled_at = at

    def _release(self, entry: Entry) -> None:
        session = entry.holder
        assert session is not None
        del session.in_flight[entry.sequence]
        session.bytes -= len(entry.body)
        entry.holder = None

    def _take_back(self, entry: Entry) -> None:
        entry.holder = None
        heappush(self._back, entry)

    def _peek(self) -> Entry | None:
        """The job that waits longest."""
        while self._back or self._fresh:
            entry = self._back[0] if self._back else self._fresh[0]
            if entry.settled_at is None:
                return entry
            self._take_peeked()  # settled while it waited, by a late DONE
        return None

    def _take_peeked(self) -> None:
        if self._back:
            heappop(self._back)
        else:
            self._fresh.popleft()
