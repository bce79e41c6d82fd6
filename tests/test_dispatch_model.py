"""The dispatcher against a model that is simpler: a dictionary that tells where each unsettled job is."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial import unittest

from zpipeline import dispatch
from zpipeline.dispatch import GRACE, STRIKE_REST, Dispatcher, FailedAttempt, Fate
from zpipeline.entry import Cause, Entry, Session
from zpipeline.retries import Policy

thorough = settings(max_examples=200, stateful_step_count=50, deadline=None, database=None)

FEW_BYTES = 100  # in place of WINDOW_BYTES
EPOCH = 1000.0  # what the other clock shows when this one shows 0
ATTEMPTS = 3
STRIKES = 3

concurrencies = st.integers(1, 4)
# none, small ones, half a window, and more than a window
body_lengths = st.sampled_from([0, 1, 10, 40, 50, 60, 120])
failures = st.builds(
    FailedAttempt, st.just("why"), st.sampled_from([False, False, True]), st.sampled_from([None, None, 0.0, 2.0])
)


class Place:
    """What the model knows of a ready worker."""

    def __init__(self, since: float, now: float) -> None:
        self.since = since
        self.leaving = self.paused = False
        self.reports = 0
        self.progress_at = now

    @property
    def takes_jobs(self) -> bool:
        return not self.leaving and not self.paused


class DispatcherMachine(RuleBasedStateMachine):
    """What waits, and is no suspect, goes out by number. Suspects go out where nothing else is."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = patch.object(dispatch, "WINDOW_BYTES", FEW_BYTES)
        self.patch.start()
        self.now = 0.0
        self.lengths: dict[int, int] = {}  # of all jobs ever added
        self.holders: dict[int, int | None] = {}  # of the unsettled ones: a session, or None for those that wait
        self.due: dict[int, float] = {}  # of those that wait for their next attempt
        self.suspects: set[int] = set()
        self.strikes: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.causes: dict[int, Cause] = {}  # of those that were handed out and came back
        self.redelivered = dict.fromkeys(Cause, 0)
        self.ready_at: dict[int, float] = {}  # when they could be handed out
        self.places: dict[int, Place] = {}
        self.sessions: dict[int, Session] = {}
        self.lost: list[int] = []  # sessions without a verdict
        self.late = 0

    def teardown(self) -> None:
        self.patch.stop()

    @initialize(
        window=st.sampled_from([None, 1, 2, 5, 40]),
        timeout=st.sampled_from([None, 2.0]),
        workers=st.lists(concurrencies, max_size=4),
    )
    def begin(self, window: int | None, timeout: float | None, workers: list[int]) -> None:
        self.policy = Policy(attempts=ATTEMPTS, first=1.0, longest=1.5, timeout=timeout)
        self.dispatcher = Dispatcher(self.policy, window=window)
        for concurrency in workers:
            self.ready(concurrency, 0.0)

    @property
    def at(self) -> float:
        return self.now + EPOCH

    def held_by(self, number: int) -> list[int]:
        return sorted(job for job, holder in self.holders.items() if holder == number)

    def bytes_of(self, jobs: list[int]) -> int:
        return sum(self.lengths[job] for job in jobs)

    def waiting(self, *, suspect: bool) -> list[int]:
        """Those that may go out now."""
        waiting = [job for job, holder in self.holders.items() if holder is None and job not in self.due]
        return sorted(job for job in waiting if (job in self.suspects) == suspect)

    def some_session(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.places)), label="session")

    def some_jobs(self, data: st.DataObject) -> list[int]:
        """Most are unsettled; others are settled, or were never added."""
        job = st.sampled_from(sorted(self.holders)) | st.integers(1, len(self.lengths) + 2)
        return data.draw(st.lists(job, min_size=1, max_size=5), label="jobs")

    def some_reporter(self, data: st.DataObject) -> tuple[int | None, Session | None]:
        number = data.draw(st.sampled_from([None, *sorted(self.places)]), label="reporter")
        return number, None if number is None else self.sessions[number]

    # Jobs come

    @rule(lengths=st.lists(body_lengths, max_size=8))
    def add(self, lengths: list[int]) -> None:
        first = len(self.lengths) + 1
        entries = [Entry(first + i, b"x" * length, b"{}", self.at) for i, length in enumerate(lengths)]
        self.dispatcher.add(entries)
        for entry in entries:
            self.lengths[entry.sequence] = len(entry.body)
            self.holders[entry.sequence] = None
            self.attempts[entry.sequence] = 1
            self.strikes[entry.sequence] = 0
            self.ready_at[entry.sequence] = self.at

    @rule(count=st.integers(1, 40))
    def add_and_assign(self, count: int) -> None:
        self.add([1] * count)
        self.assign(0.001)

    # Workers come and go

    @precondition(lambda self: len(self.places) < 5)
    @rule(concurrency=concurrencies, age=st.sampled_from([0.0, 0.0, 5.0]))
    def ready(self, concurrency: int, age: float) -> None:
        number = len(self.sessions) + 1
        since = self.now - age
        self.sessions[number] = self.dispatcher.ready(number, concurrency, self.now, since if age else None)
        self.places[number] = Place(since, self.now)

    @precondition(lambda self: self.places)
    @rule(data=st.data(), what=st.sampled_from(["unpause", "pause", "leave"]))
    def pause_or_leave(self, data: st.DataObject, what: str) -> None:
        number = self.some_session(data)
        if what == "leave":
            self.dispatcher.leave(self.sessions[number])
            self.places[number].leaving = True
        else:
            self.dispatcher.pause(self.sessions[number], what == "pause")
            self.places[number].paused = what == "pause"

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        number = self.some_session(data)
        assert self.dispatcher.lose(self.sessions[number]) == len(self.held_by(number))
        if self.places.pop(number).leaving:
            assert self.sessions[number].leaving
        self.lost.append(number)

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), fate=st.sampled_from(Fate))
    def verdict(self, data: st.DataObject, fate: Fate) -> None:
        number = data.draw(st.sampled_from(self.lost), label="session")
        self.lost.remove(number)
        held = self.held_by(number)
        self.holders.update(dict.fromkeys(held))
        self.causes.update(dict.fromkeys(held, Cause.LOST))
        blamed = self.dispatcher.verdict(number, fate, self.at)
        if fate is Fate.UNREACHABLE or self.sessions[number].leaving or not held:
            assert blamed is None
        elif len(held) > 1:
            assert blamed is None
            self.suspects.update(held)
        elif fate is Fate.DEAD:
            assert blamed is not None and blamed.sequence == held[0]
            self.strikes[held[0]] += 1
            self.suspects.add(held[0])
            if self.strikes[held[0]] == STRIKES:
                self.check_dead(blamed)
            else:
                self.due[held[0]] = self.at + STRIKE_REST * self.strikes[held[0]]
        else:
            assert blamed is not None and blamed.sequence == held[0]
            self.check_failed(blamed, FailedAttempt("timed out: the handler holds up its worker"))

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.lose(data)
        self.verdict(data, Fate.DEAD)

    # Jobs go out

    @rule(passes=st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.0]))
    def assign(self, passes: float) -> None:
        self.now += passes
        self.ready_at.update((job, due) for job, due in self.due.items() if due <= self.at)
        self.due = {job: due for job, due in self.due.items() if due > self.at}
        sizes = {number: self.sessions[number].window.size(self.now) for number in self.places}
        reserved = {number for number in self.places if self.sessions[number].reserved}
        waiting = self.waiting(suspect=False)
        ordinary: list[int] = []
        groups = 0
        for session, entries in self.dispatcher.assign(self.now, self.at):
            jobs = [entry.sequence for entry in entries]
            assert jobs == sorted(jobs) and jobs, "out of order"
            assert self.places[session.number].takes_jobs, "leaving or paused, and given jobs"
            assert all(self.holders[job] is None and job not in self.due for job in jobs), "out twice, or too early"
            assert all(entry.due is None for entry in entries)
            for job in jobs:
                if job in self.causes:
                    self.redelivered[self.causes[job]] += 1
            before = self.held_by(session.number)
            if not before:
                self.places[session.number].progress_at = self.now
            self.holders.update(dict.fromkeys(jobs, session.number))
            held = self.held_by(session.number)
            if self.suspects.intersection(jobs):
                groups += 1
                assert not before and self.suspects.issuperset(jobs), "suspects that are not alone"
                continue
            assert not self.suspects.intersection(held), "sent where suspects are"
            room = sizes[session.number] if before else max(session.window.run, sizes[session.number])
            assert len(held) <= room, "more jobs than the window"
            excess = self.bytes_of(held) - max(self.lengths[job] for job in held)
            assert len(held) == 1 or excess < FEW_BYTES, "more bytes than the window"
            ordinary += jobs
        assert sorted(ordinary) == waiting[: len(ordinary)], "not the front of those that wait"
        self.check_room(sizes)
        self.check_reserved(reserved, groups)

    def check_room(self, sizes: dict[int, int]) -> None:
        if self.waiting(suspect=False):
            for number, place in self.places.items():
                held = self.held_by(number)
                full = len(held) >= sizes[number] or self.bytes_of(held) >= FEW_BYTES
                exempt = not place.takes_jobs or self.sessions[number].reserved
                assert exempt or (held and full), "a job waits though there is room"

    def check_reserved(self, before: set[int], groups: int) -> None:
        """Rule 4: at most half of the ready workers, one at least, those that have lived longest."""
        half = max(1, sum(not place.leaving for place in self.places.values()) // 2)
        reserved = {number for number in self.places if self.sessions[number].reserved}
        staying = {number for number in reserved if not self.places[number].leaving}
        others = {number for number, place in self.places.items() if place.takes_jobs} - reserved
        for number in reserved - before:
            assert len(staying) <= half, "more than half of them are reserved"
            # one that was held before may have been let go in the same turn
            assert all(self.places[number].since <= self.places[other].since for other in others - before)
        if groups:
            assert sum(bool(self.suspects.intersection(self.held_by(number))) for number in staying) <= half
        for number in staying:
            assert self.held_by(number) or self.places[number].paused, "reserved for nothing"
        if self.waiting(suspect=True):
            assert staying or not others, "suspects wait, and nothing is reserved for them"

    # Reports come

    @precondition(lambda self: any(holder in self.places for holder in self.holders.values()))
    @rule(data=st.data(), everything=st.booleans())
    def done_by_its_worker(self, data: st.DataObject, everything: bool) -> None:
        holders = sorted({holder for holder in self.holders.values() if holder in self.places})
        number = data.draw(st.sampled_from(holders), label="session")
        held = self.held_by(number)
        jobs = held if everything else data.draw(st.lists(st.sampled_from(held), unique=True), label="jobs")
        self.check_done(number, self.sessions[number], jobs)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def done_by_anyone(self, data: st.DataObject) -> None:
        number, session = self.some_reporter(data)
        self.check_done(number, session, self.some_jobs(data))

    def check_done(self, number: int | None, session: Session | None, jobs: list[int]) -> None:
        unsettled = [job for job in dict.fromkeys(jobs) if job in self.holders]
        self.late += len(jobs) - len(unsettled)
        settled = self.dispatcher.done(session, jobs, self.now, self.at)
        assert [entry.sequence for entry in settled] == unsettled
        self.reported(number, bool(number is not None and set(unsettled) & set(self.held_by(number))))
        for entry in settled:
            assert entry.settled_at == self.at and not entry.is_dead and entry.error is None and entry.holder is None
            self.forget(entry.sequence)

    def forget(self, job: int) -> None:
        del self.holders[job]
        self.due.pop(job, None)
        self.suspects.discard(job)

    def reported(self, number: int | None, of_what_it_has: bool) -> None:
        if number is not None:
            self.places[number].reports += 1
            if of_what_it_has:
                self.places[number].progress_at = self.now

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), failure=failures)
    def failed(self, data: st.DataObject, failure: FailedAttempt) -> None:
        number, session = self.some_reporter(data)
        held = [] if number is None else self.held_by(number)
        job = self.some_jobs(data)[0]
        entry = self.dispatcher.failed(session, job, failure, self.now, self.at)
        self.reported(number, job in held)
        if job not in held:
            assert entry is None
            self.late += 1
            return
        assert entry is not None and entry.sequence == job
        self.check_failed(entry, failure)

    def check_failed(self, entry: Entry, failure: FailedAttempt) -> None:
        job = entry.sequence
        assert entry.error == failure.reason and entry.holder is None
        if failure.is_final or self.attempts[job] == ATTEMPTS:
            assert entry.attempt == self.attempts[job]
            self.check_dead(entry)
            return
        self.attempts[job] += 1
        if not self.strikes[job]:
            self.suspects.discard(job)
        self.holders[job] = None
        self.causes[job] = Cause.RETRY
        assert entry.attempt == self.attempts[job] and entry.settled_at is None and entry.due is not None
        self.due[job] = entry.due
        longest = (1.0, 1.5)[self.attempts[job] - 2]
        if failure.delay is None:
            assert self.at <= entry.due <= self.at + longest
        else:
            assert entry.due == self.at + failure.delay

    def check_dead(self, entry: Entry) -> None:
        assert entry.is_dead and entry.settled_at == self.at and entry.holder is None and entry.error
        self.forget(entry.sequence)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def returned(self, data: st.DataObject) -> None:
        number, session = self.some_reporter(data)
        held = [] if number is None else self.held_by(number)
        jobs = self.some_jobs(data)
        counted = sorted(set(jobs) & set(held))
        assert self.dispatcher.returned(session, jobs, self.now) == len(counted)
        self.late += len(jobs) - len(counted)
        self.holders.update(dict.fromkeys(counted))
        self.causes.update(dict.fromkeys(counted, Cause.RETURNED))
        self.reported(number, bool(counted))

    @precondition(lambda self: self.places)
    @rule(
        data=st.data(),
        concurrency=concurrencies,
        missing=st.integers(-2, 2),
        took=st.sampled_from([None, 0.0, 0.0003, 1.0]),
    )
    def state(self, data: st.DataObject, concurrency: int, missing: int, took: float | None) -> None:
        number = self.some_session(data)
        sent = max(0, self.places[number].reports + missing)
        complete = self.dispatcher.state(self.sessions[number], concurrency, sent, took)
        assert complete == (sent <= self.places[number].reports)

    # What always holds

    @invariant()
    def each_job_is_in_one_place(self) -> None:
        for job in self.lengths:
            entry = self.dispatcher.entry(job)
            if job not in self.holders:
                assert entry is None
                continue
            holder = self.holders[job]
            assert entry is not None and entry.settled_at is None and not entry.is_dead
            assert entry.holder is (None if holder is None else self.sessions[holder])
            assert entry.due == self.due.get(job) or (entry.due is not None and entry.due <= self.at)
            assert (entry.attempt, entry.strikes) == (self.attempts[job], self.strikes[job])
        for number, session in self.sessions.items():
            assert self.dispatcher.session(number) is (session if number in self.places else None)
            if number in self.places or number in self.lost:
                held = self.held_by(number)
                assert sorted(session.in_flight) == held
                assert session.bytes == self.bytes_of(held)

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.dispatcher.in_flight == sum(holder is not None for holder in self.holders.values())
        assert self.dispatcher.ready_workers == sum(not place.leaving for place in self.places.values())
        assert self.dispatcher.late == self.late
        assert self.dispatcher.redeliveries == self.redelivered
        assert self.dispatcher.fresh >= 0 and self.dispatcher.fresh_bytes >= 0

    @invariant()
    def the_oldest_is_known(self) -> None:
        since = [self.due.get(job, self.ready_at[job]) for job, holder in self.holders.items() if holder is None]
        assert self.dispatcher.waiting_since(self.at) == min([at for at in since if at <= self.at], default=None)

    @invariant()
    def time_is_watched(self) -> None:
        waits = [due - self.at for due in self.due.values()]
        overdue = []
        if self.policy.timeout is not None:
            for number, place in self.places.items():
                wait = place.progress_at + self.policy.timeout + GRACE - self.now
                if self.held_by(number):
                    waits.append(wait)
                    if wait <= 0:
                        overdue.append(number)
        assert sorted(session.number for session in self.dispatcher.overdue(self.now)) == overdue
        deadline = self.dispatcher.next_deadline(self.now, self.at)
        if waits:
            # a settled job's may come first
            assert deadline is not None and deadline <= max(0.0, min(waits)) + 1e-9
        elif not self.dispatcher.retries:
            assert deadline is None


class ModelTests(unittest.SynchronousTestCase):
    def test_the_dispatcher_does_as_the_model(self) -> None:
        run_state_machine_as_test(DispatcherMachine, settings=thorough)
