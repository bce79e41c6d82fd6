"""Who gets which job: the dispatcher against a model, its fairness, and single cases."""

from itertools import combinations, count, groupby
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
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
from zpipeline.dispatch import WINDOW_BYTES, Dispatcher, Entry, Session
from zpipeline.errors import Full

thorough = settings(max_examples=300, stateful_step_count=40, deadline=None, database=None)

FEW_BYTES = 100  # in place of WINDOW_BYTES
MAX_PENDING, MAX_BYTES = 20, 600

concurrencies = st.integers(1, 4)
# none, small ones, half a window, and more than a window
body_lengths = st.sampled_from([0, 1, 10, 40, 50, 60, 120])


class Place:
    """What the model knows of a ready worker."""

    def __init__(self) -> None:
        self.leaving = self.paused = False
        self.reports = 0

    @property
    def takes_jobs(self) -> bool:
        return not self.leaving and not self.paused


class DispatcherMachine(RuleBasedStateMachine):
    """The model is a dictionary: where each unsettled job is. What waits goes out by number."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = patch.object(dispatch, "WINDOW_BYTES", FEW_BYTES)
        self.patch.start()
        self.now = 0.0
        self.numbers = 0
        self.lengths: dict[int, int] = {}  # of all jobs ever accepted
        self.holders: dict[int, int | None] = {}  # of the unsettled ones: a session, or None for those that wait
        self.untried: set[int] = set()  # never out, or out and lost or returned since
        self.places: dict[int, Place] = {}
        self.sessions: dict[int, Session] = {}
        self.late = 0

    def teardown(self) -> None:
        self.patch.stop()

    @initialize(window=st.sampled_from([None, 1, 2, 5]), workers=st.lists(concurrencies, max_size=3))
    def begin(self, window: int | None, workers: list[int]) -> None:
        self.dispatcher = Dispatcher(max_pending=MAX_PENDING, max_bytes=MAX_BYTES, window=window)
        for concurrency in workers:
            self.ready(concurrency)

    def waiting(self) -> list[int]:
        return sorted(number for number, holder in self.holders.items() if holder is None)

    def held_by(self, number: int | None) -> list[int]:
        return sorted(job for job, holder in self.holders.items() if holder == number)

    def some_session(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.places)), label="session")

    def some_jobs(self, data: st.DataObject) -> list[int]:
        """Most are unsettled; others are settled, or were never accepted."""
        job = st.sampled_from(sorted(self.holders)) | st.integers(1, self.numbers + 2)
        return data.draw(st.lists(job, min_size=1, max_size=5), label="jobs")

    def some_reporter(self, data: st.DataObject) -> tuple[int | None, Session | None]:
        number = data.draw(st.sampled_from([None, *sorted(self.places)]), label="reporter")
        return number, None if number is None else self.sessions[number]

    # Jobs come

    @rule(lengths=st.lists(body_lengths, max_size=8))
    def accept(self, lengths: list[int]) -> None:
        first = self.numbers + 1
        self.numbers += len(lengths)
        entries = [Entry(first + i, b"x" * length, b"{}", 0.0) for i, length in enumerate(lengths)]
        size = sum(self.lengths[number] for number in self.holders)
        if len(self.holders) + len(lengths) > MAX_PENDING or size + sum(lengths) > MAX_BYTES:
            try:
                self.dispatcher.accept(entries)
            except Full:
                return
            raise AssertionError("over the bounds, and accepted")
        self.dispatcher.accept(entries)
        for entry in entries:
            self.lengths[entry.sequence] = len(entry.body)
            self.holders[entry.sequence] = None
            self.untried.add(entry.sequence)

    @rule(lengths=st.lists(body_lengths, min_size=1, max_size=8))
    def accept_and_assign(self, lengths: list[int]) -> None:
        self.accept(lengths)
        self.assign(0.001)

    # Workers come and go

    @precondition(lambda self: len(self.places) < 4)
    @rule(concurrency=concurrencies)
    def ready(self, concurrency: int) -> None:
        number = len(self.sessions) + 1
        self.sessions[number] = self.dispatcher.ready(number, concurrency)
        self.places[number] = Place()

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
    @rule(data=st.data(), comes_back=st.booleans())
    def lose(self, data: st.DataObject, comes_back: bool) -> None:
        number = self.some_session(data)
        held = self.held_by(number)
        assert self.dispatcher.lose(self.sessions[number]) == len(held)
        del self.places[number]
        self.wait_again(held)
        if comes_back:
            self.ready(1)

    def wait_again(self, jobs: list[int]) -> None:
        self.holders.update(dict.fromkeys(jobs))
        self.untried.update(jobs)

    # Jobs go out

    @rule(passes=st.sampled_from([0.0, 0.001, 0.02, 0.3]))
    def assign(self, passes: float) -> None:
        self.now += passes
        sizes = {number: self.sessions[number].window.size(self.now) for number in self.places}
        waiting = self.waiting()
        out = []
        for session, entries in self.dispatcher.assign(self.now):
            jobs = [entry.sequence for entry in entries]
            assert jobs == sorted(jobs) and jobs, "out of order"
            assert self.places[session.number].takes_jobs, "leaving or paused, and given jobs"
            assert self.untried.issuperset(jobs), "out twice without a fault"
            self.untried.difference_update(jobs)
            self.holders.update(dict.fromkeys(jobs, session.number))
            held = self.held_by(session.number)
            assert len(held) <= max(1, sizes[session.number]), "more jobs than the window"
            assert len(held) == 1 or self.bytes_of(held) <= FEW_BYTES, "more bytes than the window"
            out += jobs
        assert sorted(out) == waiting[: len(out)], "not the front of those that wait"
        for front in self.waiting()[:1]:
            for number, place in self.places.items():
                held = self.held_by(number)
                full = len(held) >= sizes[number] or self.bytes_of(held) + self.lengths[front] > FEW_BYTES
                assert not place.takes_jobs or (held and full), "a job waits though there is room"

    def bytes_of(self, jobs: list[int]) -> int:
        return sum(self.lengths[job] for job in jobs)

    # Reports come

    @precondition(lambda self: any(self.holders.values()))
    @rule(data=st.data())
    def done_by_its_worker(self, data: st.DataObject) -> None:
        holders = sorted({holder for holder in self.holders.values() if holder is not None})
        number = data.draw(st.sampled_from(holders), label="session")
        jobs = data.draw(st.lists(st.sampled_from(self.held_by(number)), unique=True), label="jobs")
        self.check_done(number, self.sessions[number], jobs)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def done_by_anyone(self, data: st.DataObject) -> None:
        number, session = self.some_reporter(data)
        self.check_done(number, session, self.some_jobs(data))

    def check_done(self, number: int | None, session: Session | None, jobs: list[int]) -> None:
        fresh = [job for job in dict.fromkeys(jobs) if job in self.holders]
        self.late += len(jobs) - len(fresh)
        settled = self.dispatcher.done(session, jobs, self.now, self.now + 1000)
        assert [entry.sequence for entry in settled] == fresh
        for entry in settled:
            assert entry.settled_at == self.now + 1000 and entry.error is None and entry.holder is None
            del self.holders[entry.sequence]
        self.reported(number)

    def reported(self, number: int | None) -> None:
        if number is not None:
            self.places[number].reports += 1

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        number, session = self.some_reporter(data)
        held = [] if number is None else self.held_by(number)
        job = self.some_jobs(data)[0]
        entry = self.dispatcher.failed(session, job, "why", self.now, self.now + 1000)
        self.reported(number)
        if job in held:
            assert entry is not None and entry.sequence == job and entry.holder is None
            assert entry.error == "why" and entry.settled_at == self.now + 1000
            del self.holders[job]
        else:
            assert entry is None
            self.late += 1

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def returned(self, data: st.DataObject) -> None:
        number, session = self.some_reporter(data)
        held = [] if number is None else self.held_by(number)
        jobs = self.some_jobs(data)
        counted = sorted(set(jobs) & set(held))
        assert self.dispatcher.returned(session, jobs) == len(counted)
        self.late += len(jobs) - len(counted)
        self.wait_again(counted)
        self.reported(number)

    @precondition(lambda self: self.places)
    @rule(data=st.data(), concurrency=concurrencies, missing=st.integers(-2, 2))
    def state(self, data: st.DataObject, concurrency: int, missing: int) -> None:
        number = self.some_session(data)
        sent = max(0, self.places[number].reports + missing)
        complete = self.dispatcher.state(self.sessions[number], concurrency, sent)
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
            assert entry is not None and entry.settled_at is None
            assert entry.holder is (None if holder is None else self.sessions[holder])
        for number, session in self.sessions.items():
            if number not in self.places:
                assert self.dispatcher.session(number) is None
                continue
            assert self.dispatcher.session(number) is session
            held = self.held_by(number)
            assert sorted(session.in_flight) == held
            assert session.bytes == self.bytes_of(held)

    @invariant()
    def the_counts_agree(self) -> None:
        size = self.bytes_of(list(self.holders))
        assert self.dispatcher.bytes == size
        assert self.dispatcher.pending == len(self.holders)
        assert self.dispatcher.in_flight == len(self.holders) - len(self.waiting())
        assert self.dispatcher.ready_workers == sum(not place.leaving for place in self.places.values())
        assert self.dispatcher.full == (len(self.holders) >= MAX_PENDING or size >= MAX_BYTES)
        assert self.dispatcher.late == self.late


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ready"), st.none()),
        st.tuples(st.just("jobs"), st.integers(1, 9)),
        st.tuples(st.sampled_from(["leave", "lose", "pause", "unpause", "done"]), st.integers(0, 5)),
    ),
    max_size=40,
)


class PropertyTests(unittest.SynchronousTestCase):
    """What holds whatever happens."""

    def test_the_dispatcher_does_as_the_model(self) -> None:
        run_state_machine_as_test(DispatcherMachine, settings=thorough)

    @thorough
    @given(steps)
    def test_any_run_of_jobs_is_spread_evenly_while_no_window_is_full(self, steps: list[tuple[str, Any]]) -> None:
        dispatcher = Dispatcher(max_pending=10_000, max_bytes=1 << 20, window=10_000)
        handed: list[int] = []  # which worker got a job, in order
        since: dict[Session, int] = {}  # those that take jobs, and how many had been handed out when they began to
        numbers = 0
        names = count()

        def check() -> None:
            # Counts of any run differ by one at most when the two alternate.
            for (one, one_since), (other, other_since) in combinations(since.items(), 2):
                both = [who for who in handed[max(one_since, other_since) :] if who in (one.number, other.number)]
                assert all(len(list(run)) == 1 for _, run in groupby(both)), both

        sessions = [dispatcher.ready(next(names), 1), dispatcher.ready(next(names), 1)]
        since.update(dict.fromkeys(sessions, 0))
        for what, n in [*steps, ("jobs", 9)]:
            session = sessions[n % len(sessions)] if n is not None and sessions else None
            if what == "ready":
                session = dispatcher.ready(next(names), 1)
                sessions.append(session)
                since[session] = len(handed)
            elif what == "jobs":
                dispatcher.accept([Entry(numbers + i, b"", b"{}", 0.0) for i in range(n)])
                numbers += n
                out = [(e.sequence, s.number) for s, entries in dispatcher.assign(0.0) for e in entries]
                handed += [number for _, number in sorted(out)]
                check()
            elif session is None:
                continue
            elif what == "done":
                dispatcher.done(session, list(session.in_flight), 0.0, 0.0)
            elif what == "unpause":
                if session.paused and not session.leaving:
                    since[session] = len(handed)
                dispatcher.pause(session, False)
            else:
                since.pop(session, None)
                if what == "pause":
                    dispatcher.pause(session, True)
                elif what == "leave":
                    dispatcher.leave(session)
                else:
                    dispatcher.lose(session)
                    sessions.remove(session)


class Case(unittest.SynchronousTestCase):
    """A dispatcher with a fixed window, and jobs numbered from 1."""

    def setUp(self) -> None:
        self.numbers = 0
        self.dispatcher = Dispatcher(max_pending=100, max_bytes=1 << 30, window=4)

    def accept(self, count: int = 1, length: int = 1) -> None:
        entries = [Entry(self.numbers + i, b"x" * length, b"{}", 0.0) for i in range(1, count + 1)]
        self.dispatcher.accept(entries)
        self.numbers += count

    def assign(self, now: float = 0.0) -> dict[int, list[int]]:
        """Which session gets which jobs."""
        out = self.dispatcher.assign(now)
        return {session.number: [entry.sequence for entry in entries] for session, entries in out}


class HandingOutTests(Case):
    """Rules 1 to 3."""

    def test_the_first_three_jobs_go_to_three_workers(self) -> None:
        for number in (7, 8, 9):
            self.dispatcher.ready(number, 1)
        self.accept(3)
        self.assertEqual(self.assign(), {7: [1], 8: [2], 9: [3]})

    def test_the_round_goes_on_where_it_stopped(self) -> None:
        for number in (7, 8, 9):
            self.dispatcher.ready(number, 1)
        self.accept(2)
        self.assign()
        self.accept(2)
        self.assertEqual(self.assign(), {9: [3], 7: [4]})

    def test_a_new_worker_comes_after_all_others(self) -> None:
        self.dispatcher.ready(7, 1)
        self.dispatcher.ready(8, 1)
        self.accept(1)
        self.assign()
        self.dispatcher.ready(9, 1)
        self.accept(4)
        self.assertEqual(self.assign(), {8: [2, 5], 7: [3], 9: [4]})

    def test_the_others_get_what_a_full_worker_cannot_take(self) -> None:
        self.dispatcher.ready(7, 1)
        self.accept(3)
        self.assign()
        self.dispatcher.ready(8, 1)
        self.accept(5)
        self.assertEqual(self.assign(), {7: [4], 8: [5, 6, 7, 8]})

    def test_jobs_wait_for_a_worker_in_order(self) -> None:
        self.accept(6)
        self.assertEqual(self.assign(), {})
        self.dispatcher.ready(7, 1)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 4]})

    def test_a_window_that_sizes_itself_begins_with_one_job_more_than_the_worker_runs(self) -> None:
        self.dispatcher = Dispatcher(max_pending=100, max_bytes=1000)
        self.dispatcher.ready(7, 3)
        self.accept(9)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 4]})

    def test_a_window_grows_with_what_its_worker_settles(self) -> None:
        self.dispatcher = Dispatcher(max_pending=100, max_bytes=1000)
        session = self.dispatcher.ready(7, 1)
        self.accept(50)
        self.assign(0.0)
        self.dispatcher.done(session, [1, 2], 0.001, 0.0)
        self.assertEqual(self.assign(0.001), {7: [3, 4, 5, 6]})
        self.dispatcher.done(session, [3, 4, 5, 6], 0.002, 0.0)
        self.assertEqual(len(self.assign(0.002)[7]), 6)


class BytesTests(Case):
    """Rule 2, of bytes."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(dispatch, "WINDOW_BYTES", FEW_BYTES)

    def test_a_window_holds_64_mebibytes(self) -> None:
        self.assertEqual(WINDOW_BYTES, 64 * 1024 * 1024)

    def test_jobs_that_fill_the_window_to_the_last_byte_fit(self) -> None:
        self.dispatcher.ready(7, 1)
        self.accept(3, length=50)
        self.assertEqual(self.assign(), {7: [1, 2]})

    def test_an_empty_worker_takes_a_job_of_any_size(self) -> None:
        self.dispatcher.ready(7, 1)
        self.accept(2, length=1000)
        self.assertEqual(self.assign(), {7: [1]})

    def test_a_worker_that_has_no_room_for_a_large_job_gets_the_small_one_after_it(self) -> None:
        self.dispatcher.ready(7, 1)
        self.accept(length=60)
        self.assign()
        self.dispatcher.ready(8, 1)
        self.accept(length=50)
        self.accept(length=60)
        self.accept(length=40)
        self.assertEqual(self.assign(), {8: [2]})
        self.dispatcher.ready(9, 1)
        self.assertEqual(self.assign(), {9: [3], 7: [4]})

    def test_a_worker_with_room_gets_job_after_job_while_another_is_passed_over(self) -> None:
        self.dispatcher.ready(7, 1)
        self.accept(length=60)
        self.assign()
        self.dispatcher.ready(8, 1)
        self.accept(3, length=41)
        self.assertEqual(self.assign(), {8: [2, 3]})


class BoundsTests(Case):
    """Rule 4."""

    def setUp(self) -> None:
        super().setUp()
        self.dispatcher = Dispatcher(max_pending=3, max_bytes=100)

    def test_so_many_jobs_and_bytes_fit_as_the_bounds_say(self) -> None:
        self.accept(2, length=50)
        self.assertTrue(self.dispatcher.full)
        self.accept(1, length=0)
        self.assertEqual(self.dispatcher.pending, 3)

    def test_one_job_too_many_says_how_many_there_may_be(self) -> None:
        self.accept(2)
        self.assertRaisesRegex(Full, "2 jobs are unsettled, and 3 may be", self.accept, 2)
        self.assertEqual(self.dispatcher.pending, 2)

    def test_one_byte_too_many_says_how_many_there_may_be(self) -> None:
        self.accept(1, length=60)
        self.assertRaisesRegex(Full, "hold 60 bytes, and may hold 100", self.accept, 1, 41)
        self.assertEqual(self.dispatcher.pending, 1)

    def test_what_is_refused_is_never_handed_out(self) -> None:
        self.accept(1)
        self.assertRaises(Full, self.accept, 3)
        self.dispatcher.ready(7, 9)
        self.assertEqual(self.assign(), {7: [1]})

    def test_there_is_room_again_once_a_job_is_settled(self) -> None:
        self.accept(3)
        session = self.dispatcher.ready(7, 1)
        self.assign()
        self.dispatcher.done(session, [1], 0.0, 0.0)
        self.accept(1)
        self.assertEqual(self.dispatcher.pending, 3)


class FaultTests(Case):
    """Rules 5 to 7, and workers that pause or leave."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.dispatcher.ready(1, 1)
        self.other = self.dispatcher.ready(2, 1)

    def test_what_a_lost_worker_held_goes_out_first_and_in_order(self) -> None:
        self.accept(10)
        self.assertEqual(self.assign(), {1: [1, 3, 5, 7], 2: [2, 4, 6, 8]})
        self.assertEqual(self.dispatcher.lose(self.one), 4)
        self.dispatcher.done(self.other, [2, 4, 6, 8], 0.0, 0.0)
        self.assertEqual(self.assign(), {2: [1, 3, 5, 7]})
        self.dispatcher.done(self.other, [1, 3, 5, 7], 0.0, 0.0)
        self.assertEqual(self.assign(), {2: [9, 10]})

    def test_a_job_done_by_a_lost_worker_is_not_handed_out_again(self) -> None:
        self.accept(2)
        self.assign()
        self.dispatcher.lose(self.one)
        (entry,) = self.dispatcher.done(None, [1], 0.0, 5.0)
        self.assertEqual((entry.sequence, entry.settled_at), (1, 5.0))
        self.assertEqual(self.assign(), {})
        self.assertEqual(self.dispatcher.pending, 1)

    def test_a_job_done_by_a_lost_worker_frees_its_place_at_the_next(self) -> None:
        self.accept(2)
        self.assign()
        self.dispatcher.lose(self.one)
        self.assign()
        self.assertEqual(sorted(self.other.in_flight), [1, 2])
        self.dispatcher.done(None, [1], 0.0, 0.0)
        self.assertEqual((sorted(self.other.in_flight), self.other.bytes), ([2], 1))
        self.assertEqual(self.dispatcher.done(self.other, [1], 0.0, 0.0), [])
        self.assertEqual(self.dispatcher.late, 1)

    def test_a_failure_settles_the_job_as_dead(self) -> None:
        self.accept(1)
        self.assign()
        entry = self.dispatcher.failed(self.one, 1, "ValueError: no", 0.0, 5.0)
        assert entry is not None
        self.assertEqual((entry.error, entry.settled_at), ("ValueError: no", 5.0))
        self.assertEqual((self.dispatcher.pending, self.dispatcher.bytes, self.one.bytes), (0, 0, 0))

    def test_a_failure_counts_only_from_where_the_job_is(self) -> None:
        self.accept(1)
        self.assign()
        self.assertIsNone(self.dispatcher.failed(self.other, 1, "no", 0.0, 0.0))
        self.assertIsNone(self.dispatcher.failed(None, 1, "no", 0.0, 0.0))
        self.assertEqual((self.dispatcher.pending, self.dispatcher.late), (1, 2))

    def test_jobs_given_back_go_to_the_next_worker_before_all_others(self) -> None:
        self.accept(9)
        self.assign()
        self.assertEqual(self.dispatcher.returned(self.one, [7, 5, 2]), 2)  # 2 is at the other
        self.assertEqual(self.dispatcher.late, 1)
        self.dispatcher.leave(self.one)
        self.dispatcher.done(self.other, [2, 4, 6], 0.0, 0.0)
        self.assertEqual(self.assign(), {2: [5, 7, 9]})

    def test_a_worker_that_gives_back_gets_a_small_window(self) -> None:
        self.dispatcher = Dispatcher(max_pending=100, max_bytes=1000)
        session = self.dispatcher.ready(1, 1)
        self.accept(50)
        for now in (0.0, 0.001, 0.002, 0.003):
            self.assign(now)
            self.dispatcher.done(session, list(session.in_flight), now + 0.0005, 0.0)
        self.assertGreater(len(self.assign(0.004)[1]), 2)
        self.dispatcher.returned(session, list(session.in_flight))
        self.assertEqual(len(self.assign(0.005)[1]), 2)

    def test_a_leaving_worker_gets_nothing_new_and_reports_what_it_has(self) -> None:
        self.accept(1)
        self.assign()
        self.dispatcher.leave(self.one)
        self.dispatcher.leave(self.one)
        self.accept(2)
        self.assertEqual(self.assign(), {2: [2, 3]})
        self.assertEqual(self.dispatcher.ready_workers, 1)
        self.assertEqual(len(self.dispatcher.done(self.one, [1], 0.0, 0.0)), 1)

    def test_a_paused_worker_gets_nothing_until_its_socket_takes_something_again(self) -> None:
        self.dispatcher.pause(self.one, True)
        self.accept(2)
        self.assertEqual(self.assign(), {2: [1, 2]})
        self.dispatcher.pause(self.one, False)
        self.accept(2)
        self.assertEqual(self.assign(), {2: [3], 1: [4]})

    def test_a_worker_paused_twice_goes_on_at_once_and_gets_its_share_once(self) -> None:
        self.dispatcher.pause(self.one, True)
        self.dispatcher.pause(self.one, True)
        self.dispatcher.pause(self.one, False)
        self.dispatcher.pause(self.one, False)
        self.accept(4)
        self.assertEqual(self.assign(), {2: [1, 3], 1: [2, 4]})

    def test_what_a_lost_worker_gives_back_is_where_it_belongs_already(self) -> None:
        self.accept(2)
        self.assign()
        self.dispatcher.lose(self.one)
        self.assertEqual(self.dispatcher.returned(None, [1]), 0)
        self.assertEqual(self.assign(), {2: [1]})
        self.assertEqual(self.dispatcher.late, 1)

    def test_the_dispatcher_knows_its_unsettled_jobs_and_ready_workers(self) -> None:
        self.accept(2)
        self.assign()
        entry = self.dispatcher.entry(1)
        assert entry is not None
        self.assertIs(entry.holder, self.one)
        self.assertEqual(self.dispatcher.in_flight, 2)
        self.assertIs(self.dispatcher.session(1), self.one)
        self.dispatcher.done(self.one, [1], 0.0, 0.0)
        self.dispatcher.lose(self.one)
        self.assertIsNone(self.dispatcher.entry(1))
        self.assertIsNone(self.dispatcher.session(1))
        self.assertEqual(self.dispatcher.in_flight, 1)

    def test_a_worker_that_left_while_paused_stays_away(self) -> None:
        self.dispatcher.pause(self.one, True)
        self.dispatcher.leave(self.one)
        self.dispatcher.pause(self.one, False)
        self.accept(2)
        self.assertEqual(self.assign(), {2: [1, 2]})
        self.assertEqual(self.dispatcher.lose(self.one), 0)

    def test_reports_that_went_missing_show_in_what_the_worker_counts(self) -> None:
        self.accept(3)
        self.assign()
        self.dispatcher.done(self.one, [1], 0.0, 0.0)
        self.dispatcher.failed(self.one, 99, "no", 0.0, 0.0)
        self.dispatcher.returned(self.one, [3])
        self.assertTrue(self.dispatcher.state(self.one, 1, 3))
        self.assertFalse(self.dispatcher.state(self.one, 1, 4))

    def test_a_worker_that_says_it_runs_more_gets_more(self) -> None:
        self.dispatcher = Dispatcher(max_pending=100, max_bytes=1000)
        session = self.dispatcher.ready(1, 1)
        self.accept(50)
        self.assertEqual(len(self.assign()[1]), 2)
        self.dispatcher.state(session, 10, 0)
        self.assertEqual(len(self.assign()[1]), 9)
