"""The dispatcher and a journal against a model, with crashes and recovery: nothing accepted is lost.

The journal is a dictionary that outlives crashes. As the real one it carries out what is asked in order, after what has
been noted, all in one transaction or none of it; and what a transaction answers arrives a while after it was written.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from attrs import define, evolve
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
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial import unittest

from zpipeline import retries
from zpipeline.admission import Admission
from zpipeline.dispatch import Dispatcher, Fate
from zpipeline.entry import Entry, Session
from zpipeline.errors import Full, JournalError
from zpipeline.pipeline import jobs as jobs_module
from zpipeline.pipeline.jobs import Jobs
from zpipeline.protocol import NO_DELAY, REJECT, RETRY, Failed
from zpipeline.retries import Policy
from zpipeline.stats import Measures
from zpipeline.store import Facts, Key, Letter, Opened, Outcome, Selection, Status, StoreOwner

thorough = settings(max_examples=150, stateful_step_count=60, deadline=None, database=None)

FEW = 6  # jobs in memory
FEW_BYTES = 60
MAX_PENDING = 100
REVIVED = 2  # dead letters in one transaction
ATTEMPTS = 3


@define
class Row:
    """An unsettled job, as it is written down."""

    body: bytes
    accepted_at: float
    attempt: int = 1
    strikes: int = 0
    due: float | None = None
    error: str | None = None

    def entry(self, number: int) -> Entry:
        return Entry(number, self.body, b"{}", self.accepted_at, self.attempt, self.strikes, self.due, self.error)


class Paper:
    """What outlives a crash."""

    def __init__(self) -> None:
        self.epoch = 0
        self.rows: dict[int, Row] = {}
        self.done: set[int] = set()
        self.results: dict[int, bytes] = {}
        self.dead: dict[int, Letter] = {}
        self.dropped: set[int] = set()

    def write(self, facts: Facts) -> list[tuple[int, int]]:
        for tried in facts.tried:
            row = self.rows[tried.sequence]
            row.attempt, row.strikes, row.due, row.error = tried[:4]
        for entry in facts.done:
            del self.rows[entry.sequence]
            self.keep(entry.sequence, facts)
        for letter in facts.dead:
            del self.rows[letter.summary.sequence]
            self.dead[letter.summary.sequence] = letter
        found = [(number, len(self.rows.pop(number).body)) for number, _ in facts.elsewhere if number in self.rows]
        for number, _ in found:
            self.keep(number, facts)
        return found

    def keep(self, number: int, facts: Facts) -> None:
        self.done.add(number)
        if number in facts.results:
            self.results[number] = facts.results[number]

    def outcome(self, number: int) -> Outcome | None:
        if number in self.rows:
            return Outcome(Status("waiting", 1, 0.0, None, None))
        if number in self.done:
            return Outcome(Status("done", 1, 0.0, 0.0, None), number in self.results, self.results.get(number))
        is_dead = number in self.dead or number in self.dropped
        return Outcome(Status("dead", 1, 0.0, 0.0, "why")) if is_dead else None

    def accept(self, entries: Sequence[Entry]) -> None:
        self.rows.update((entry.sequence, Row(entry.body, entry.accepted_at)) for entry in entries)

    def page(self, keys: list[tuple[Any, int]], most: int, most_bytes: int) -> tuple[list[Entry], bool]:
        page: list[Entry] = []
        for _, number in sorted(keys):
            if len(page) == most or sum(len(entry.body) for entry in page) > most_bytes:
                return page, True
            page.append(self.rows[number].entry(number))
        return page, False

    def load(self, after: int, most: int, most_bytes: int) -> tuple[list[Entry], bool]:
        keys = [(number, number) for number, row in self.rows.items() if row.due is None and number > after]
        return self.page(keys, most, most_bytes)

    def load_retries(self, after: tuple[float, int], most: int, most_bytes: int) -> tuple[list[Entry], bool]:
        keys = [(row.due, number) for number, row in self.rows.items() if row.due is not None]
        return self.page([key for key in keys if key > after], most, most_bytes)

    def revive(self, after: int, at: float) -> tuple[list[Entry], bool]:
        chosen = sorted(number for number in self.dead if number > after)
        for number in chosen[:REVIVED]:
            letter = self.dead.pop(number)
            self.rows[number] = Row(letter.body, letter.summary.accepted_at, due=at)
        return [self.rows[number].entry(number) for number in chosen[:REVIVED]], len(chosen) > REVIVED

    def drop(self, number: int) -> bool:
        if self.dead.pop(number, None) is None:
            return False
        self.dropped.add(number)
        return True


class FakeStore:
    """A `zpipeline.store.Store` on paper: `write` or `fail` is a transaction, `answer` tells what came of one.

    :param model: is told what is noted and what is answered.
    """

    holds_all = False
    congested = False
    trouble: str | None = None

    def __init__(self, paper: Paper, model: JournalMachine) -> None:
        self.paper = paper
        self.model = model
        self.facts = Facts()
        self.asked: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.answers: deque[Callable[[], None]] = deque()

    def open(self, owner: StoreOwner) -> Opened:
        self.owner = owner
        self.paper.epoch += 1
        bodies = [row.body for row in self.paper.rows.values()]
        return Opened(7, self.paper.epoch, len(bodies), sum(map(len, bodies)))

    def note(self, facts: Facts) -> None:
        self.facts.add(facts)
        self.model.was_noted(facts)

    def ask(self, request: Callable[[], Any]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((request, answer))
        return answer

    def accept(self, entries: Sequence[Entry], key: Key | None) -> Deferred[int | None]:
        return self.ask(lambda: self.paper.accept(entries))

    def load(self, after: int, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        return self.ask(lambda: self.paper.load(after, most, most_bytes))

    def load_retries(self, after: tuple[float, int], most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        return self.ask(lambda: self.paper.load_retries(after, most, most_bytes))

    def outcome(self, sequence: int, at: float) -> Deferred[Outcome | None]:
        return self.ask(lambda: self.paper.outcome(sequence))

    def revive(self, selection: Selection, at: float) -> Deferred[tuple[list[Entry], bool]]:
        answer = self.ask(lambda: self.paper.revive(selection.after, at))
        return answer.addCallback(self.model.were_revived)

    def drop(self, sequence: int) -> Deferred[bool]:
        return self.ask(lambda: self.paper.drop(sequence))

    def write(self) -> None:
        facts, self.facts = self.facts, Facts()
        asked, self.asked = self.asked, []
        elsewhere = self.paper.write(facts)
        results = [(answer, request()) for request, answer in asked]
        recovered, self.trouble = self.trouble is not None, None

        def answered() -> None:
            for answer, result in results:
                answer.callback(result)

        def settled() -> None:
            self.model.elsewhere.difference_update(number for number, _ in elsewhere)
            self.owner.settled_elsewhere(elsewhere)

        if elsewhere:
            self.answers.append(settled)
        self.answers.append(answered)
        if recovered:
            self.answers.append(self.owner.store_recovered)

    def fail(self) -> None:
        asked, self.asked = self.asked, []
        self.trouble = "the disk is full"

        def refused() -> None:
            for _, answer in asked:
                answer.errback(JournalError("the disk is full"))

        self.answers.append(refused)

    def answer(self) -> None:
        self.answers.popleft()()


class Clock:
    """In place of the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1000


class JournalMachine(RuleBasedStateMachine):
    """The model: what was accepted, what of it is unsettled, and where each of those is."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.patches = contextlib.ExitStack()
        for target, name, value in (
            (jobs_module, "MOST", FEW),
            (jobs_module, "MOST_BYTES", FEW_BYTES),
            (retries, "MOST", FEW),
            (retries, "MOST_BYTES", FEW_BYTES),
            (random, "uniform", lambda low, high: high),
        ):
            self.patches.enter_context(patch.object(target, name, value))
        self.paper = Paper()
        self.promised: set[int] = set()  # those whose acceptance was answered
        self.ghosts: list[int] = []  # at workers whose sessions were lost, and may be done there yet
        self.numbers = 0
        self.runs = 0
        self.start()

    def start(self) -> None:
        self.store = FakeStore(self.paper, self)
        self.dispatcher = Dispatcher(Policy(attempts=ATTEMPTS, timeout=5.0), window=3, bounded=True)
        self.admission = Admission(MAX_PENDING, None)
        self.jobs = Jobs(self.store, self.dispatcher, self.admission, Measures(), lambda: None, self.clock)
        self.jobs.open()
        self.sessions: list[Session] = []
        self.lost: list[Session] = []
        self.writing = 0  # jobs whose acceptance is asked
        self.reviving = 0  # questions
        self.waiters: dict[Deferred[Any], int] = {}  # those who wait, and for which job
        self.elsewhere: set[int] = set()  # done, and not known to the journal yet, and not in memory
        self.place: dict[int, Session] = {}  # of what is out
        self.last_first = 0  # the highest number that was out for the first time in this life
        self.unsettled = set(self.paper.rows)
        self.attempts = {number: row.attempt for number, row in self.paper.rows.items()}
        self.due = {number: row.due for number, row in self.paper.rows.items() if row.due is not None}
        self.again = {number for number, row in self.paper.rows.items() if row.due is not None}

    @initialize(
        kinds=st.lists(st.sampled_from(["fresh", "fresh", "fresh", "struck", "due", "due later"]), max_size=30),
        workers=st.integers(0, 3),
    )
    def begin(self, kinds: list[str], workers: int) -> None:
        """The journal of an earlier life."""
        for number, kind in enumerate(kinds, 1):
            due = {"struck": 0.0, "due": 0.0, "due later": 1010.0}.get(kind)
            self.paper.rows[number] = Row(b"x", 0.0, 1 if due is None else 2, int(kind == "struck"), due)
        self.promised.update(self.paper.rows)
        self.ghosts += self.paper.rows
        self.start()
        for _ in range(workers):
            self.ready()

    # Jobs come

    @rule(lengths=st.lists(st.sampled_from([0, 1, 5, 30]), min_size=1, max_size=6), times=st.integers(1, 3))
    def push(self, lengths: list[int], times: int) -> None:
        for _ in range(times):
            is_too_many = self.admission.jobs + len(lengths) > MAX_PENDING
            try:
                numbers = self.jobs.accept(self.jobs.admit([b"x" * length for length in lengths], b"{}"))
            except Full:
                assert is_too_many
                return
            assert not is_too_many
            self.writing += len(lengths)
            numbers.addCallbacks(self.were_accepted, self.were_refused, errbackArgs=[len(lengths)])

    def were_accepted(self, numbers: list[int]) -> None:
        self.writing -= len(numbers)
        assert not self.promised & set(numbers), "a number that was used before"
        assert self.paper.rows.keys() >= set(numbers), "answered, and not written"
        self.promised.update(numbers)
        self.unsettled.update(numbers)
        self.attempts.update(dict.fromkeys(numbers, 1))

    def were_refused(self, failure: Any, count: int) -> None:
        failure.trap(JournalError)
        self.writing -= count

    # The journal

    @rule(answers=st.booleans())
    def commit(self, answers: bool) -> None:
        self.store.write()
        if answers:
            self.all_answers_come()

    @rule()
    def all_answers_come(self) -> None:
        while self.store.answers:
            self.store.answer()
        self.hand_out()

    @rule()
    def commit_and_hand_out_meanwhile(self) -> None:
        self.store.write()
        self.hand_out()

    @rule()
    def commit_fails(self) -> None:
        self.store.fail()

    @precondition(lambda self: self.store.answers)
    @rule()
    def answer_comes(self) -> None:
        self.store.answer()

    @rule(comes_back=st.booleans())
    def crash_and_recover(self, comes_back: bool) -> None:
        self.ghosts += self.place
        self.start()
        if comes_back:
            self.ready()
            self.hand_out()

    # Workers come and go

    @precondition(lambda self: len(self.sessions) < 4)
    @rule()
    def ready(self) -> None:
        self.numbers += 1
        self.sessions.append(self.dispatcher.ready(self.numbers, 1, self.clock.now))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.dispatcher.leave(data.draw(st.sampled_from(self.sessions)))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(session)
        self.lost.append(session)
        self.dispatcher.lose(session)

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), fate=st.sampled_from(Fate))
    def verdict(self, data: st.DataObject, fate: Fate) -> None:
        session = data.draw(st.sampled_from(self.lost))
        self.judge(session, fate)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.lose(data)
        self.judge(self.lost[-1], Fate.DEAD)

    @precondition(lambda self: self.place)
    @rule(data=st.data())
    def die_of_one_alone(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.place)))
        session = self.place[number]
        if session in self.sessions:
            self.report_done(session, [other for other in self.held_by(session) if other != number])
            self.sessions.remove(session)
            self.lost.append(session)
            self.dispatcher.lose(session)
            self.judge(session, Fate.DEAD)

    def judge(self, session: Session, fate: Fate) -> None:
        self.lost.remove(session)
        held = self.held_by(session)
        for number in held:
            del self.place[number]
        if fate is not Fate.DEAD:
            self.ghosts += held
        self.jobs.verdict(session.number, fate, "handler")
        self.again.update(held)

    def held_by(self, session: Session) -> list[int]:
        return sorted(number for number, holder in self.place.items() if holder is session)

    def was_noted(self, facts: Facts) -> None:
        for tried in facts.tried:
            self.attempts[tried.sequence] = tried.attempt
            if tried.due is not None:
                self.due[tried.sequence] = tried.due
        for letter in facts.dead:
            self.unsettled.remove(letter.summary.sequence)
        self.elsewhere.update(self.unsettled.intersection(number for number, _ in facts.elsewhere))

    # Jobs go out

    @rule()
    def hand_out(self) -> None:
        first = []
        for session, entries in self.jobs.hand_out():
            assert session in self.sessions and not session.leaving
            for entry in entries:
                number = entry.sequence
                assert number in self.unsettled, "settled, and out again"
                assert number not in self.place, "out twice"
                assert self.due.pop(number, 0.0) <= self.clock.time(), "before its time"
                assert entry.attempt == self.attempts[number]
                if number not in self.again:
                    first.append(number)
                self.again.add(number)
                self.place[number] = session
        assert min(first, default=self.last_first + 1) > self.last_first, "out of order"
        self.last_first = max(first, default=self.last_first)

    @rule(seconds=st.sampled_from([0.001, 1.0, 1.0, 2.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.hand_out()

    # Reports come

    @precondition(lambda self: self.place)
    @rule(data=st.data(), everything=st.booleans())
    def done(self, data: st.DataObject, everything: bool) -> None:
        session = self.place[data.draw(st.sampled_from(sorted(self.place)))]
        held = self.held_by(session)
        numbers = held if everything else data.draw(st.lists(st.sampled_from(held), min_size=1, unique=True))
        self.report_done(session if session in self.sessions else None, numbers)

    @precondition(lambda self: self.ghosts)
    @rule(data=st.data())
    def done_late(self, data: st.DataObject) -> None:
        chosen = sorted(self.unsettled.intersection(self.ghosts)) or self.ghosts
        numbers = data.draw(st.lists(st.sampled_from(chosen) | st.sampled_from(self.ghosts), min_size=1, max_size=3))
        # of one that is about to be revived nobody knows whether it counts
        self.report_done(None, [n for n in numbers if not self.reviving or n in self.unsettled])

    def report_done(self, session: Session | None, numbers: list[int]) -> None:
        # a job of an even number returns something, another one each time
        self.runs += 1
        results = [None if number % 2 else b"%d %d" % (number, self.runs) for number in numbers]
        self.jobs.done(session, numbers, results if any(results) else ())
        for number in numbers:
            self.unsettled.discard(number)
            self.place.pop(number, None)

    @precondition(lambda self: self.place)
    @rule(
        data=st.data(), kind=st.sampled_from([RETRY, RETRY, RETRY, REJECT]), delay=st.sampled_from([NO_DELAY, 0.0, 9.0])
    )
    def failed(self, data: st.DataObject, kind: int, delay: float) -> None:
        session = self.place[data.draw(st.sampled_from(sorted(self.place)))]
        if session not in self.sessions:
            self.jobs.failed(None, Failed(1, self.held_by(session)[0], kind, delay, "why", ""), "handler")
            return
        for number in self.held_by(session):
            del self.place[number]
            self.jobs.failed(session, Failed(1, number, kind, delay, "why", ""), "handler")

    def failed_for_good(self, number: int) -> None:
        session = self.place.pop(number)
        self.jobs.failed(session, Failed(1, number, REJECT, NO_DELAY, "why", ""), "handler")

    @precondition(lambda self: self.place)
    @rule(delay=st.sampled_from([0.0, 9.0, 9.0, 1000.0]))
    def all_fail(self, delay: float) -> None:
        for number, session in list(self.place.items()):
            if session in self.sessions:
                del self.place[number]
                self.jobs.failed(session, Failed(1, number, RETRY, delay, "why", ""), "handler")
        self.hand_out()

    @precondition(lambda self: self.place)
    @rule()
    def all_are_done(self) -> None:
        for session in self.sessions:
            self.report_done(session, self.held_by(session))
        self.hand_out()

    @precondition(lambda self: self.place)
    @rule(data=st.data())
    def returned(self, data: st.DataObject) -> None:
        session = self.place[data.draw(st.sampled_from(sorted(self.place)))]
        held = self.held_by(session)
        is_here = session in self.sessions
        assert self.dispatcher.returned(session if is_here else None, held, 0.0) == (len(held) if is_here else 0)
        if is_here:
            for number in held:
                del self.place[number]

    # Somebody waits

    @precondition(lambda self: self.promised)
    @rule(data=st.data(), gives_up=st.booleans())
    def wait(self, data: st.DataObject, gives_up: bool) -> None:
        self.begin_to_wait(data.draw(st.sampled_from(sorted(self.unsettled or self.promised))), gives_up)

    @precondition(lambda self: self.unsettled)
    @rule()
    def wait_for_all(self) -> None:
        for number in sorted(self.unsettled):
            self.begin_to_wait(number)

    def begin_to_wait(self, number: int, gives_up: bool = False) -> None:
        waiter = self.jobs.waiting.wait(number, self.clock.time())
        if gives_up:
            waiter.addErrback(lambda _: None)
            waiter.cancel()
            return
        self.waiters[waiter] = number
        waiter.addCallback(self.is_told, waiter)
        # as whoever waits does: of one that is settled already, nothing more is heard
        self.jobs.outcome(number).addCallbacks(self.is_answered, lambda _: None, callbackArgs=(waiter,))

    def is_answered(self, outcome: Outcome | None, waiter: Deferred[Any]) -> None:
        assert outcome is not None
        if outcome.status.settled_at is not None and waiter in self.waiters:
            self.is_told(outcome, waiter)
            waiter.addErrback(lambda _: None)
            waiter.cancel()

    def is_told(self, outcome: Outcome | None, waiter: Deferred[Any]) -> None:
        number = self.waiters.pop(waiter)
        assert outcome is not None
        if outcome.status.state == "done":
            assert number in self.paper.done, "told, and not written"
            assert outcome.result == self.paper.results.get(number), "not its own result"
            assert outcome.returned == (number % 2 == 0)
        else:
            assert outcome.status.state == "dead"
            # it may have been revived since

    # Dead letters

    @precondition(lambda self: self.paper.dead)
    @rule()
    def revive(self) -> None:
        self.reviving += 1
        ensureDeferred(self.revive_them())

    async def revive_them(self) -> None:
        with contextlib.suppress(JournalError):
            await self.jobs.revive(Selection())
        self.reviving -= 1

    def were_revived(self, page: tuple[list[Entry], bool]) -> tuple[list[Entry], bool]:
        for entry in page[0]:
            assert entry.due is not None
            self.unsettled.add(entry.sequence)
            self.attempts[entry.sequence] = 1
            self.due[entry.sequence] = entry.due
            self.again.add(entry.sequence)  # it may have died in an earlier life
        return page

    @precondition(lambda self: self.paper.dead)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.paper.dead)))
        self.jobs.drop(number).addErrback(lambda failure: failure.trap(JournalError))

    # What always holds

    @invariant()
    def what_was_promised_is_there(self) -> None:
        paper = self.paper
        noted = {entry.sequence for entry in self.store.facts.done} | {n for n, _ in self.store.facts.elsewhere}
        noted.update(letter.summary.sequence for letter in self.store.facts.dead)
        for number in self.promised:
            written = [number in kept for kept in (paper.rows, paper.done, paper.dead, paper.dropped)]
            assert sum(written) == 1, "lost, or there twice"
            if number in self.unsettled:
                assert number in paper.rows and number not in noted, "settled, and nobody has said so"
            elif number in paper.rows and not self.reviving:
                assert number in noted, "settled, and it will not be written"

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.admission.jobs == self.writing + len(self.unsettled | self.elsewhere)
        assert self.dispatcher.in_flight == len(self.place)
        assert self.place.keys() <= self.unsettled

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.dispatcher.fresh <= FEW
        assert len(self.dispatcher.retries) <= 2 * FEW + 12, "more than a page, what is fresh, and what was in flight"

    # In the end all goes well

    def teardown(self) -> None:
        try:
            self.everything_is_settled_in_the_end()
        finally:
            self.patches.close()

    def everything_is_settled_in_the_end(self) -> None:
        for session in list(self.lost):
            self.judge(session, Fate.UNREACHABLE)
        self.ready()
        for _ in range(300):
            self.store.write()
            self.all_answers_come()
            self.clock.now += 400
            self.all_are_done()
            if not (self.unsettled or self.store.asked or self.store.facts or self.store.answers):
                break
        assert not (self.unsettled or self.paper.rows or self.place), "not settled, though all goes well"
        assert (self.admission.jobs, self.admission.bytes) == (0, 0)
        assert not self.waiters, "somebody waits for ever"
        assert not self.jobs.waiting, "somebody is waited for by nobody"
        assert self.promised <= self.paper.done | self.paper.dead.keys() | self.paper.dropped


class JournalTests(unittest.SynchronousTestCase):
    def test_what_is_accepted_is_settled_whatever_crashes(self) -> None:
        run_state_machine_as_test(JournalMachine, settings=thorough)


class RaceTests(unittest.SynchronousTestCase):
    """What is read and what happens while that is on its way. Each ends as the machine ends."""

    def setUp(self) -> None:
        self.machine = JournalMachine()
        self.addCleanup(self.machine.teardown)

    def recover(self, *rows: Row, workers: int) -> None:
        """The journal holds these; all that is read at once has been read and handed out."""
        self.machine.paper.rows = {number: evolve(row) for number, row in enumerate(rows, 1)}
        self.machine.promised.update(self.machine.paper.rows)
        self.machine.start()
        for _ in range(workers):
            self.machine.ready()
        self.machine.hand_out()

    def turn(self) -> None:
        """All is written, and all answers come."""
        self.machine.store.write()
        self.machine.all_answers_come()
        self.machine.the_counts_agree()
        self.machine.what_was_promised_is_there()

    def fail(self, *numbers: int, delay: float) -> None:
        for number in numbers:
            session = self.machine.place.pop(number)
            self.machine.jobs.failed(session, Failed(1, number, RETRY, delay, "why", ""), "handler")

    def test_a_job_done_while_it_waits_for_another_attempt_is_not_left_to_the_journal(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * (FEW + 3), workers=3)
        self.turn()
        self.turn()
        numbers = sorted(self.machine.place)
        self.fail(numbers[0], delay=100.0)
        self.machine.report_done(None, numbers[:1])
        self.fail(*numbers[1:], delay=9.0)
        self.assertLessEqual(len(self.machine.dispatcher.retries), FEW)
        self.turn()

    def test_a_job_done_while_a_page_that_holds_it_is_on_its_way_is_not_run_again(self) -> None:
        self.recover(*[Row(b"x", 0.0, due=0.0)] * 4, workers=2)
        self.turn()
        self.fail(1, delay=0.0)
        self.machine.store.write()
        self.machine.hand_out()
        self.machine.report_done(self.machine.place[1], [1])
        self.turn()
        self.turn()

    def test_a_job_that_dies_while_a_page_that_holds_it_is_on_its_way_stays_dead(self) -> None:
        self.recover(*[Row(b"x", 0.0, due=0.0)] * 4, workers=2)
        self.turn()
        self.fail(1, delay=0.0)
        self.machine.store.write()
        self.machine.hand_out()
        self.assertIn(1, self.machine.place)
        self.machine.failed_for_good(1)
        self.turn()
        self.turn()
        self.assertIn(1, self.machine.paper.dead)

    def test_a_job_that_was_struck_is_not_read_again_among_those_that_never_were_out(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * 19, Row(b"x", 0.0, 2, due=0.0), workers=4)
        self.turn()
        session = self.machine.place[20]
        self.machine.report_done(session, [number for number in self.machine.held_by(session) if number != 20])
        self.machine.sessions.remove(session)
        self.machine.lost.append(session)
        self.machine.dispatcher.lose(session)
        self.machine.judge(session, Fate.DEAD)
        for _ in range(10):
            self.turn()
            for other in self.machine.sessions:
                self.machine.report_done(other, [number for number in self.machine.held_by(other) if number != 20])

    def test_no_page_is_asked_for_while_one_is_on_its_way(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * 20, workers=1)
        self.machine.hand_out()
        self.assertEqual(len(self.machine.store.asked), 2)  # one of each kind

    def test_a_job_done_twice_before_that_is_written_is_counted_once(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * 20, workers=1)
        self.turn()
        self.machine.report_done(self.machine.sessions[0], [1])
        self.machine.report_done(None, [1])
        self.turn()

    def test_a_job_done_late_while_its_page_is_on_its_way_is_not_handed_out(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * 6, workers=1)
        self.machine.store.write()
        self.machine.report_done(None, [1])
        self.machine.all_answers_come()
        self.assertEqual(sorted(self.machine.place), [2, 3, 4])
        self.turn()

    def test_who_waits_for_a_job_that_is_done_while_it_is_in_the_journal_alone_is_told(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * 20, workers=1)
        self.turn()
        self.machine.begin_to_wait(20)
        self.turn()
        self.machine.report_done(None, [20])
        self.assertEqual(list(self.machine.waiters.values()), [20], "it is not written yet")
        self.turn()
        self.assertEqual(self.machine.waiters, {})

    def test_who_waits_for_a_job_whose_end_cannot_be_written_is_told_when_it_can(self) -> None:
        self.recover(*[Row(b"x", 0.0)] * 2, workers=1)
        self.turn()
        self.machine.begin_to_wait(1)
        self.turn()
        self.machine.report_done(self.machine.sessions[0], [1])
        self.machine.commit_fails()
        self.machine.all_answers_come()
        self.assertEqual(list(self.machine.waiters.values()), [1])
        self.turn()
        self.turn()
        self.assertEqual(self.machine.waiters, {})

    def test_a_dead_letter_that_is_a_job_again_counts_among_the_unsettled(self) -> None:
        self.recover(*[Row(b"xyz", 0.0)] * 2, workers=2)
        self.turn()
        self.machine.failed_for_good(1)
        self.turn()
        self.assertEqual(self.machine.jobs.unsettled, 1)
        self.machine.revive()
        self.turn()
        self.assertEqual((self.machine.jobs.admission.jobs, self.machine.jobs.admission.bytes), (2, 6))
