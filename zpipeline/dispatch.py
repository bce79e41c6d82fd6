"""Who gets which job, and what happens when one is lost. Pure: no sockets, no Twisted, no clock.

`now` is a time of the monotonic clock; `at` is one in seconds since the epoch: what outlives the process is told by it.

The rules that this module keeps:

1. Round-robin over the ready workers that have room in their window, one job at a time. Where all of them say that
   they do several in a millisecond, and several jobs wait, each is given that many at once: a run. Those come first
   then that have been given the fewest in runs, so that no run which was cut short for want of jobs puts its worker
   behind. While no window is full, the counts of any stretch of jobs differ between two workers by one job at most
   where they went out one by one, and by two runs where they went out in runs.
2. A window is a number of jobs (`zpipeline.window`) and of bytes (`WINDOW_BYTES`, or one job more); a worker that has
   nothing in flight always has room for a run.
3. No worker has room: jobs wait, in the order of their acceptance.
4. A session is lost: its jobs wait for the verdict on its process. If that is not proven dead, they go back to the
   front, in order. If it is, they are suspects (`zpipeline.suspects`): each group alone on one worker, on the
   longest-lived workers first, on at most half of those that are ready, and on one at least.
5. A handler fails: the job waits for its next attempt (`zpipeline.retries`), and is dead after the last.
6. DONE settles a job that is not settled yet, whichever of this ventilator's sessions it comes from: the work is
   done. FAILED and RETURNED count only for the delivery that is in flight. All else is counted in `late`.
7. Without faults no job is handed out twice.
8. With a timeout, a session that has jobs in flight, and for the timeout and `GRACE` seconds settles none and
   gives none back, is overdue: its jobs are suspects, and one that was there alone has failed.

A job is in exactly one place: waiting (fresh, back, in a group of suspects, or for its next attempt), in flight in one
session (its `holder`), of a lost session whose verdict is awaited, or settled and no longer known here. Those that were
never handed out, and those that wait for their next attempt, may also be in the store alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, MutableMapping, Sequence
from enum import Enum
from heapq import heappop, heappush
from itertools import chain

from attrs import frozen

from zpipeline.entry import Cause, Entry, Session
from zpipeline.retries import Key, Policy, Retries
from zpipeline.suspects import MAX_STRIKES, Suspects
from zpipeline.window import Window

WINDOW_BYTES = 64 << 20

#: How long a job that was struck waits, for each of its strikes, in seconds: its worker can be started again by then.
STRIKE_REST = 2.0

#: How much longer than the timeout a worker may take to report, in seconds.
GRACE = 5.0

#: In so many STATEs running a worker has to have fewer jobs than are in flight there, until that is believed.
MISSED = 3


class Fate(Enum):
    """What became of the process of a session that was lost."""

    UNREACHABLE = "it may be alive"
    DEAD = "it is proven dead"
    OVERDUE = "it is held up by a handler"


@frozen
class FailedAttempt:
    """An attempt that failed.

    :ivar is_final: there is to be no other.
    :ivar delay: seconds before the next one; None leaves it to the policy.
    """

    reason: str
    is_final: bool = False
    delay: float | None = None


class Dispatcher:
    """The jobs in memory and all ready workers of one ventilator.

    :param policy: what becomes of jobs whose handlers fail.
    :param window: jobs in flight at each worker; None lets each window size itself.
    :param bounded: whether jobs that wait for another attempt may be left to the store when they are many.
    :param redeliveries: where is counted how often a job was handed out that had been before, by why.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        window: int | None = None,
        bounded: bool = False,
        redeliveries: MutableMapping[Cause, int] | None = None,
    ) -> None:
        self.policy = policy
        self.late = 0
        self.redeliveries = dict.fromkeys(Cause, 0) if redeliveries is None else redeliveries
        self.fresh_bytes = 0
        self.retries = Retries(bounded=bounded)
        self._fixed_window = window
        self._entries: dict[int, Entry] = {}
        self._largest = 1  # no body that waits has more bytes
        self._taken = 0  # jobs, since that was looked up
        self._fresh: deque[Entry] = deque()  # never handed out, in order
        self._back: list[Entry] = []  # handed out before: a heap, all of it before the fresh ones
        self._suspects = Suspects()
        self._awaiting: dict[int, Session] = {}  # lost sessions, until their verdicts
        self._sessions: dict[int, Session] = {}
        self._ring: list[Session] = []  # those that may get ordinary jobs; the next in turn is the first

    # What is known

    @property
    def fresh(self) -> int:
        """How many jobs are in memory that were never handed out."""
        return len(self._fresh)

    @property
    def in_flight(self) -> int:
        """How many jobs are at workers, or were until a moment ago, and it is not known what became of them."""
        sessions = (*self._sessions.values(), *self._awaiting.values())
        return sum(len(session.in_flight) for session in sessions)

    @property
    def ready_workers(self) -> int:
        """How many workers take part: ready, and not leaving."""
        return sum(not session.leaving for session in self._sessions.values())

    def waiting_since(self, at: float) -> float | None:
        """Since when that job waits which waits longest, of those in memory that could be handed out; None without any.

        It looks at all that are to be handed out again: to be called when somebody asks, not for each job.
        """
        since = [entry.ready_at for entry in chain(self._back, self._suspects) if entry.settled_at is None]
        fresh = next((entry for entry in self._fresh if entry.settled_at is None), None)
        if fresh is not None:
            since.append(fresh.accepted_at)
        due = self.retries.waiting_since(at)
        if due is not None:
            since.append(due)
        return min(since, default=None)

    def entry(self, sequence: int) -> Entry | None:
        """The unsettled job of that number, if it is in memory."""
        return self._entries.get(sequence)

    def session(self, number: int) -> Session | None:
        """The ready worker of that session."""
        return self._sessions.get(number)

    # Jobs come

    def add(self, entries: Sequence[Entry]) -> None:
        """Take these jobs, whose numbers are higher than those of any that were added so before."""
        self.fresh_bytes += self._know(entries)
        self._fresh.extend(entries)

    def add_retry(self, entry: Entry, cause: Cause = Cause.RETRY) -> None:
        """Take a job that waits for its `due` time."""
        entry.cause = cause
        self._know([entry])
        for dropped in self.retries.add(entry):
            del self._entries[dropped.sequence]

    def add_retries(self, page: Sequence[Entry], last: Key | None) -> None:
        """Take a page that `retries` has asked for. See `zpipeline.retries.Retries.add_page`."""
        new = [entry for entry in page if entry.sequence not in self._entries]
        for entry in new:  # of one that was struck and has failed, nobody has noted which was last
            entry.cause = Cause.LOST if entry.strikes and entry.attempt == 1 else Cause.RETRY
        self._know(new)
        self.retries.add_page(new, last)

    def _know(self, entries: Sequence[Entry]) -> int:
        """Bytes of their bodies together."""
        self._entries.update(zip([entry.sequence for entry in entries], entries, strict=True))
        sizes = [len(entry.body) for entry in entries]
        self._largest = max(self._largest, max(sizes, default=0))
        return sum(sizes)

    def _look_up_largest(self) -> None:
        """Forget large bodies that wait no longer: not before as many jobs were taken as wait, as it looks at each."""
        if self._taken > len(self._fresh) + len(self._back):
            self._largest = max([len(entry.body) for entry in chain(self._fresh, self._back)], default=1) or 1
            self._taken = 0

    def _wait_again(self, entry: Entry) -> None:
        """It goes out again as soon as there is room, before all that were never handed out."""
        heappush(self._back, entry)
        self._largest = max(self._largest, len(entry.body))

    # Workers come and go

    def ready(self, number: int, concurrency: int, now: float, since: float | None = None) -> Session:
        """A worker takes part from now on, after all others in turn.

        :param since: when its process was first ready; None for now.
        """
        session = Session(number, Window(concurrency, self._fixed_window), now if since is None else since)
        session.progress_at = now
        self._sessions[number] = session
        self._join(session)
        return session

    def leave(self, session: Session) -> None:
        """The worker gets nothing new, and keeps what is in flight."""
        session.leaving = True
        self._arrange(session)

    def pause(self, session: Session, paused: bool) -> None:
        """Its socket takes nothing for now, or takes something again."""
        session.paused = paused
        self._arrange(session)

    def lose(self, session: Session) -> int:
        """A session is over; `verdict` must follow. How many jobs were in flight."""
        del self._sessions[session.number]
        if session in self._ring:
            self._ring.remove(session)
        self._awaiting[session.number] = session
        return len(session.in_flight)

    def verdict(self, number: int, fate: Fate, at: float) -> Entry | None:
        """Rules 4 and 8: what became of the process of that lost session.

        A worker that was leaving by itself is not suspected of having died of what it had.

        :returns: the job that was there alone, if that counts against it: it is struck, has failed, or is dead.
        """
        session = self._awaiting.pop(number)
        lost = sorted(session.in_flight.values())
        for entry in lost:
            entry.holder = None
            entry.comes_back(Cause.LOST)
        if fate is Fate.UNREACHABLE or session.leaving or not lost:
            self._take_back(session, lost)
            return None
        if len(lost) > 1:
            self._suspects.cut(lost)
            return None
        entry = lost[0]
        if fate is Fate.DEAD:
            self._strike(entry, at)
        else:
            self._fail(entry, FailedAttempt("timed out: the handler holds up its worker"), at)
        return entry

    # Jobs go out

    def assign(self, now: float, at: float) -> list[tuple[Session, list[Entry]]]:
        """Rules 1 to 4: who gets what, now. What is returned counts as in flight."""
        for due in self.retries.take_due(at):
            assert due.due is not None
            due.ready_at, due.due = due.due, None
            if due.strikes:
                self._suspects.again([due])
            else:
                self._wait_again(due)
        given = self._assign_suspects(now)
        last = self._deal(given, now)
        if last is not None:
            following = self._ring.index(last) + 1
            self._ring = self._ring[following:] + self._ring[:following]
        return list(given.items())

    def _deal(self, given: dict[Session, list[Entry]], now: float) -> Session | None:
        """Rules 1 to 3, as many whole rounds at once as all that take part have room for: who had the last turn."""
        last = None
        turn = [(session, room) for session in self._ring if (room := _room(session, now)) > 0]
        shortest = min([session.window.run for session, _ in turn], default=0)
        by_runs = shortest > 1 and len(self._fresh) + len(self._back) > 1
        if by_runs:
            _fewest_first(turn)
        while turn:
            free = WINDOW_BYTES - max([session.bytes for session, _ in turn])
            most = min([room for _, room in turn])  # for each of them
            if most * self._largest > free:
                self._look_up_largest()
                most = max(1, min(most, free // self._largest))
            run = min(most, min([session.window.run for session, _ in turn]))
            most -= most % run
            jobs = self._take(most * len(turn))
            for place, batch in enumerate(_shares(jobs, run, len(turn))):
                session, _ = turn[place]
                if session in given:
                    given[session] += batch
                else:
                    given[session] = batch
                    session.window.sent(batch[0].sequence, len(session.in_flight), now)
                    if not session.in_flight:
                        session.progress_at = now
                _hold(session, batch)
                if by_runs:
                    session.in_runs += len(batch)
            if jobs and not by_runs:
                last = turn[(len(jobs) - 1) // run % len(turn)][0]
            if len(jobs) < most * len(turn):
                break
            turn = [(session, room - most) for session, room in turn if room > most and session.bytes < WINDOW_BYTES]
        return last

    def _assign_suspects(self, now: float) -> dict[Session, list[Entry]]:
        """Reserve workers for the groups that wait, and give each that is empty its group."""
        given: dict[Session, list[Entry]] = {}
        reserved = [session for session in self._sessions.values() if session.reserved and not session.leaving]
        if not (self._suspects or reserved):
            return given
        wanted = min(max(1, self.ready_workers // 2), len(self._suspects) + len(reserved))
        free = sorted(self._ring, key=lambda session: session.since)
        for session in free[: max(0, wanted - len(reserved))]:
            session.reserved = True
            self._arrange(session)
            reserved.append(session)
        surplus = len(reserved) - wanted  # of the others, too many have gone
        for session in reserved:
            if session.in_flight or session.paused:
                continue
            group = self._suspects.next() if surplus <= 0 else []
            session.has_suspects = session.reserved = bool(group)
            if not group:
                surplus -= 1
                self._arrange(session)
                continue
            self._count(group)
            _hold(session, group)
            session.progress_at = now
            given[session] = group
        return given

    # Reports come

    def done(self, session: Session | None, sequences: Iterable[int], now: float, at: float) -> list[Entry]:
        """Rule 6: which jobs this settles; `late` counts the others.

        :param session: the one that reports; None when it was lost since.
        """
        settled = []
        here = size = 0
        entries = self._entries
        for sequence in sequences:
            entry = entries.pop(sequence, None)
            if entry is None:
                self.late += 1
                continue
            if entry.holder is not None:
                if entry.holder is session:
                    del session.in_flight[sequence]
                    entry.holder = None
                    here += 1
                    size += len(entry.body)
                else:
                    _release(entry)
            entry.error = None
            entry.settled_at = at
            settled.append(entry)
        if session is not None:
            session.reports += 1
            session.bytes -= size
            if here:
                session.progress_at = now
                session.window.settled(here, session.in_flight, now)
        return settled

    def failed(
        self, session: Session | None, sequence: int, failure: FailedAttempt, now: float, at: float
    ) -> Entry | None:
        """Rule 5: the handler of this job failed. The job, if that counts: it is dead, or due again."""
        if session is not None:
            session.reports += 1
        entry = self._take_from(session, sequence)
        if entry is None or session is None:
            return None
        session.progress_at = now
        session.window.settled(1, session.in_flight, now)
        self._fail(entry, failure, at)
        return entry

    def returned(self, session: Session | None, sequences: Iterable[int], now: float) -> int:
        """The worker gives these back, not begun: how many wait again."""
        if session is not None:
            session.reports += 1
            session.window.given_back()
        reported = [self._take_from(session, sequence) for sequence in sequences]
        back = [entry for entry in reported if entry is not None]
        for entry in back:
            entry.comes_back(Cause.RETURNED)
        if session is not None and back:
            session.progress_at = now
            self._take_back(session, sorted(back))
        return len(back)

    def state(self, session: Session, concurrency: int, sent: int, took: float | None = None) -> bool:
        """What the worker counts: False when reports of this session went missing on their way.

        :param took: how many seconds a job takes there now, on average; None when it does not say.
        """
        session.window.concurrency = concurrency
        if took is not None:
            session.window.took(took)
        return sent <= session.reports

    def holds(self, session: Session, received: int, held: int) -> bool:
        """Rule 2: False when, as its STATEs have said for long enough, it does not have all that is in flight there.

        :param received: how many of the jobs of this session have come there.
        :param held: how many of these it has, and has not reported.
        """
        on_their_way = session.given - received
        session.missed = session.missed + 1 if len(session.in_flight) - on_their_way > held else 0
        return session.missed < MISSED

    # What time brings

    def overdue(self, now: float) -> list[Session]:
        """Rule 8: sessions that hold jobs for too long."""
        if self.policy.timeout is None:
            return []
        since = now - self.policy.timeout - GRACE
        return [s for s in self._sessions.values() if s.in_flight and s.progress_at <= since]

    def next_deadline(self, now: float, at: float, *, overdue: bool = True) -> float | None:
        """In how many seconds there is something to do, if nothing comes; None for never.

        :param overdue: whether that a session becomes overdue is something to do.
        """
        waits = []
        if self.retries.next_due is not None:
            waits.append(self.retries.next_due - at)
        if overdue and self.policy.timeout is not None:
            longest = self.policy.timeout + GRACE
            waits += [s.progress_at + longest - now for s in self._sessions.values() if s.in_flight]
        return max(0.0, min(waits)) if waits else None

    # What happens to a job

    def _strike(self, entry: Entry, at: float) -> None:
        entry.strikes += 1
        entry.error = f"worker processes that died while it was there alone: {entry.strikes}"
        if entry.strikes >= MAX_STRIKES:
            self._die(entry, at)
        else:
            entry.due = at + STRIKE_REST * entry.strikes
            self.add_retry(entry, Cause.LOST)

    def _fail(self, entry: Entry, failure: FailedAttempt, at: float) -> None:
        entry.error = failure.reason
        if failure.is_final or entry.attempt >= self.policy.attempts:
            self._die(entry, at)
            return
        delay = self.policy.delay(entry.attempt) if failure.delay is None else failure.delay
        entry.attempt += 1
        entry.due = at + delay
        self.add_retry(entry)

    def _die(self, entry: Entry, at: float) -> None:
        entry.is_dead = True
        entry.settled_at = at
        del self._entries[entry.sequence]

    def _take_from(self, session: Session | None, sequence: int) -> Entry | None:
        """The job of that number, in flight no longer, if it was in flight in that session; else `late` counts it."""
        entry = self._entries.get(sequence)
        if entry is None or session is None or entry.holder is not session:
            self.late += 1
            return None
        _release(entry)
        return entry

    def _take_back(self, session: Session, entries: list[Entry]) -> None:
        """They go out again, as soon as there is room; suspects go on being suspects."""
        if session.has_suspects and entries:
            self._suspects.again(entries)
        else:
            for entry in entries:
                self._wait_again(entry)

    def _arrange(self, session: Session) -> None:
        """Whether the session is in the ring follows from its flags."""
        belongs = not (session.leaving or session.paused or session.reserved)
        if belongs and session not in self._ring:
            self._join(session)
        elif not belongs and session in self._ring:
            self._ring.remove(session)

    def _join(self, session: Session) -> None:
        """Into the ring, after all others: for what they were given meanwhile nothing is owed."""
        session.in_runs = max((other.in_runs for other in self._ring), default=0)
        self._ring.append(session)

    def _take(self, most: int) -> list[Entry]:
        """The jobs that wait longest; those that were settled while they waited, by a late DONE, are left out."""
        jobs: list[Entry] = []
        while self._back and len(jobs) < most:
            entry = heappop(self._back)
            if entry.settled_at is None:
                jobs.append(entry)
        if jobs:
            self._count(jobs)
        fresh = self._fresh
        while fresh and len(jobs) < most:
            taken = [fresh.popleft() for _ in range(min(most - len(jobs), len(fresh)))]
            self.fresh_bytes -= sum([len(entry.body) for entry in taken])
            jobs += [entry for entry in taken if entry.settled_at is None]
        self._taken += len(jobs)
        return jobs

    def _count(self, again: list[Entry]) -> None:
        """These are handed out again."""
        for entry in again:
            self.redeliveries[entry.cause] += 1


def _room(session: Session, now: float) -> int:
    """For how many jobs there is room in its window."""
    in_flight = len(session.in_flight)
    if in_flight and session.bytes >= WINDOW_BYTES:
        return 0
    room = session.window.size(now) - in_flight
    return room if in_flight else max(session.window.run, room)


def _fewest_first(turn: list[tuple[Session, int]]) -> None:
    """In the order of what they were given in runs. One that had no room for a while is owed a run at most."""
    most = max([session.in_runs for session, _ in turn])
    for session, _ in turn:
        least = most - session.window.run
        if session.in_runs < least:
            session.in_runs = least
    turn.sort(key=lambda place: place[0].in_runs)


def _shares(jobs: list[Entry], run: int, workers: int) -> list[list[Entry]]:
    """What each worker gets when these are dealt in runs, those that get nothing left out."""
    if run == 1:
        return [jobs[place::workers] for place in range(min(workers, len(jobs)))]
    runs = [jobs[start : start + run] for start in range(0, len(jobs), run)]
    return [list(chain.from_iterable(runs[place::workers])) for place in range(min(workers, len(runs)))]


def _hold(session: Session, entries: list[Entry]) -> None:
    """From now on they are in flight there."""
    for entry in entries:
        entry.holder = session
        session.in_flight[entry.sequence] = entry
    session.bytes += sum([len(entry.body) for entry in entries])
    session.given += len(entries)


def _release(entry: Entry) -> None:
    """It is in flight no longer."""
    session = entry.holder
    assert session is not None
    del session.in_flight[entry.sequence]
    session.bytes -= len(entry.body)
    entry.holder = None
