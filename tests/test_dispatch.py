"""Who gets which job: fairness, and each rule of the dispatcher by itself."""

import random
from itertools import accumulate, combinations, count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline import dispatch
from zpipeline.dispatch import GRACE, STRIKE_REST, WINDOW_BYTES, Dispatcher, FailedAttempt, Fate
from zpipeline.entry import Cause, Entry, Session
from zpipeline.retries import Policy

thorough = settings(max_examples=300, deadline=None, database=None)

FEW_BYTES = 100  # in place of WINDOW_BYTES

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

    @thorough
    @given(steps, st.sampled_from([1, 1, 2, 5]))
    def test_any_stretch_of_jobs_is_spread_evenly_while_no_window_is_full(
        self, steps: list[tuple[str, Any]], run: int
    ) -> None:
        dispatcher = Dispatcher(Policy(), window=10_000)
        handed: list[int] = []  # which worker got a job, in order
        since: dict[Session, int] = {}  # those that take jobs, and how many had been handed out when they began to
        numbers = 0
        names = count()

        def check() -> None:
            # How far one is before the other after each job: in a stretch their counts differ by a difference of these.
            for (one, one_since), (other, other_since) in combinations(since.items(), 2):
                both = handed[max(one_since, other_since) :]
                ahead = list(accumulate([(who == one.number) - (who == other.number) for who in both], initial=0))
                assert max(ahead) - min(ahead) <= (1 if run == 1 else 2 * run + 1), both

        def ready() -> Session:
            session = dispatcher.ready(next(names), 1, 0.0)
            session.window.run = run
            return session

        sessions = [ready(), ready()]
        since.update(dict.fromkeys(sessions, 0))
        for what, n in [*steps, ("jobs", 9)]:
            session = sessions[n % len(sessions)] if n is not None and sessions else None
            if what == "ready":
                session = ready()
                sessions.append(session)
                since[session] = len(handed)
            elif what == "jobs":
                dispatcher.add([Entry(numbers + i, b"", b"{}", 0.0) for i in range(n)])
                numbers += n
                out = [(e.sequence, s.number) for s, entries in dispatcher.assign(0.0, 0.0) for e in entries]
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
                    dispatcher.verdict(session.number, Fate.UNREACHABLE, 0.0)
                    sessions.remove(session)


class Case(unittest.SynchronousTestCase):
    """A dispatcher with a fixed window, and jobs numbered from 1."""

    def setUp(self) -> None:
        self.numbers = 0
        self.dispatcher = Dispatcher(Policy(attempts=3, first=1.0, longest=300.0), window=4)

    def add(self, count: int = 1, length: int = 1) -> None:
        entries = [Entry(self.numbers + i, b"x" * length, b"{}", 0.0) for i in range(1, count + 1)]
        self.dispatcher.add(entries)
        self.numbers += count

    def ready(self, *numbers: int) -> None:
        """Workers, the longest-lived first."""
        for number in numbers:
            self.dispatcher.ready(number, 1, float(number))

    def lose(self, number: int, fate: Fate) -> Entry | None:
        """The session of that number is over, and so much is known of its process."""
        self.dispatcher.lose(self.at(number))
        return self.dispatcher.verdict(number, fate, 50.0)

    def at(self, number: int) -> Session:
        session = self.dispatcher.session(number)
        assert session is not None
        return session

    def done(self, number: int) -> None:
        """All that is at this worker is done."""
        session = self.at(number)
        self.dispatcher.done(session, list(session.in_flight), 0.0, 50.0)

    def assign(self, now: float = 0.0, at: float = 50.0) -> dict[int, list[int]]:
        """Which session gets which jobs."""
        out = self.dispatcher.assign(now, at)
        return {session.number: [entry.sequence for entry in entries] for session, entries in out}


class HandingOutTests(Case):
    """Rules 1 to 3."""

    def test_the_first_three_jobs_go_to_three_workers(self) -> None:
        for number in (7, 8, 9):
            self.dispatcher.ready(number, 1, 0.0)
        self.add(3)
        self.assertEqual(self.assign(), {7: [1], 8: [2], 9: [3]})

    def test_the_round_goes_on_where_it_stopped(self) -> None:
        for number in (7, 8, 9):
            self.dispatcher.ready(number, 1, 0.0)
        self.add(2)
        self.assign()
        self.add(2)
        self.assertEqual(self.assign(), {9: [3], 7: [4]})

    def short(self, *numbers: int, run: int = 2) -> None:
        """Workers that do so many jobs in a millisecond."""
        for number in numbers:
            self.dispatcher.ready(number, 1, 0.0).window.run = run

    def test_short_jobs_go_out_in_runs(self) -> None:
        self.short(7, 8, 9)
        self.add(5)
        self.assertEqual(self.assign(), {7: [1, 2], 8: [3, 4], 9: [5]})

    def test_who_was_given_fewer_in_runs_comes_first(self) -> None:
        self.short(7, 8, 9)
        self.add(3)
        self.assertEqual(self.assign(), {7: [1, 2], 8: [3]})
        self.add(2)
        self.assertEqual(self.assign(), {9: [4, 5]})
        self.add(2)
        self.assertEqual(self.assign(), {8: [6, 7]})

    def test_jobs_of_a_lost_worker_go_out_in_runs_too(self) -> None:
        self.short(7, 8)
        self.add(2)
        self.assertEqual(self.assign(), {7: [1, 2]})
        self.lose(7, Fate.UNREACHABLE)
        self.short(9)
        self.assertEqual(self.assign(), {8: [1, 2]})

    def test_a_job_that_comes_alone_goes_to_the_next_in_turn_whatever_was_given_in_runs(self) -> None:
        self.short(7, 8, 9)
        self.add(3)
        self.assertEqual(self.assign(), {7: [1, 2], 8: [3]})
        for number, job in ((7, 4), (8, 5), (9, 6), (7, 7)):
            self.add(1)
            self.assertEqual(self.assign(), {number: [job]})

    def runs(self, count: int) -> list[int]:
        """Which workers get so many runs, each of which is done before the next."""
        workers = []
        for _ in range(count):
            self.add(2)
            (number,) = self.assign()
            self.done(number)
            workers.append(number)
        return workers

    def test_a_worker_that_had_no_room_is_owed_one_run_and_no_more(self) -> None:
        self.short(7, 8)
        self.add(8)
        self.assertEqual(self.assign(), {7: [1, 2, 5, 6], 8: [3, 4, 7, 8]})
        self.done(8)
        self.assertEqual(self.runs(5), [8] * 5)
        self.done(7)
        self.assertEqual(self.runs(5), [7, 7, 8, 7, 8])

    def test_a_worker_that_took_no_part_is_owed_nothing(self) -> None:
        self.short(7, 8)
        self.dispatcher.pause(self.at(7), True)
        self.assertEqual(self.runs(5), [8] * 5)
        self.dispatcher.pause(self.at(7), False)
        self.short(9)
        self.assertEqual(self.runs(5), [8, 7, 9, 8, 7])

    def test_several_rounds_of_runs_are_dealt_at_once(self) -> None:
        self.short(7, 8)
        self.add(7)
        self.assertEqual(self.assign(), {7: [1, 2, 5, 6], 8: [3, 4, 7]})

    def test_what_a_window_has_room_for_beside_whole_runs_is_used_too(self) -> None:
        self.short(7, 8, run=3)
        self.add(9)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 7], 8: [4, 5, 6, 8]})

    def test_where_a_worker_takes_longer_jobs_are_dealt_one_by_one(self) -> None:
        self.short(7, 8)
        self.dispatcher.ready(9, 1, 0.0)
        self.add(4)
        self.assertEqual(self.assign(), {7: [1, 4], 8: [2], 9: [3]})

    def test_a_worker_that_has_nothing_has_room_for_a_run(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        self.short(7, run=5)
        self.add(9)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 4, 5]})
        self.assertEqual(self.assign(), {}, "it has more than its window, and gets no other run")

    def test_a_worker_says_how_long_jobs_take_there(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        for number in (7, 8):
            self.dispatcher.ready(number, 1, 0.0)
            self.dispatcher.state(self.at(number), 1, 0, 0.0002)
        self.add(6)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 4, 5], 8: [6]})

    def test_a_new_worker_comes_after_all_others(self) -> None:
        self.dispatcher.ready(7, 1, 0.0)
        self.dispatcher.ready(8, 1, 0.0)
        self.add(1)
        self.assign()
        self.dispatcher.ready(9, 1, 0.0)
        self.add(4)
        self.assertEqual(self.assign(), {8: [2, 5], 7: [3], 9: [4]})

    def test_the_others_get_what_a_full_worker_cannot_take(self) -> None:
        self.dispatcher.ready(7, 1, 0.0)
        self.add(3)
        self.assign()
        self.dispatcher.ready(8, 1, 0.0)
        self.add(5)
        self.assertEqual(self.assign(), {7: [4], 8: [5, 6, 7, 8]})

    def test_jobs_wait_for_a_worker_in_order(self) -> None:
        self.add(6)
        self.assertEqual(self.assign(), {})
        self.dispatcher.ready(7, 1, 0.0)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 4]})

    def test_a_window_that_sizes_itself_begins_with_one_job_more_than_the_worker_runs(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        self.dispatcher.ready(7, 3, 0.0)
        self.add(9)
        self.assertEqual(self.assign(), {7: [1, 2, 3, 4]})

    def test_a_window_grows_with_what_its_worker_settles(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        session = self.dispatcher.ready(7, 1, 0.0)
        self.add(50)
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
        self.dispatcher.ready(7, 1, 0.0)
        self.add(3, length=50)
        self.assertEqual(self.assign(), {7: [1, 2]})

    def test_an_empty_worker_takes_a_job_of_any_size(self) -> None:
        self.dispatcher.ready(7, 1, 0.0)
        self.add(2, length=1000)
        self.assertEqual(self.assign(), {7: [1]})

    def test_a_large_job_does_not_make_those_after_it_be_dealt_one_by_one(self) -> None:
        self.dispatcher.ready(7, 1, 0.0)
        self.add(length=90)
        self.assign()
        self.done(7)
        taken: list[int] = []
        take = self.dispatcher._take
        self.patch(self.dispatcher, "_take", lambda most: taken.append(most) or take(most))
        for _ in range(3):
            self.add(4, length=10)
            self.assertEqual(len(self.assign()[7]), 4)
            self.done(7)
        self.assertEqual(taken[-1], 4)

    def test_a_large_job_that_waits_again_counts_as_large(self) -> None:
        self.ready(7)
        self.add(length=90)
        self.assign()
        self.lose(7, Fate.UNREACHABLE)
        self.add(8, length=10)
        self.ready(8)
        self.assertEqual(self.assign(), {8: [1, 2]})

    def test_a_window_may_be_over_its_bytes_by_one_job_and_then_has_no_room(self) -> None:
        self.dispatcher.ready(7, 1, 0.0)
        self.add(length=99)
        self.assertEqual(self.assign(), {7: [1]})
        self.add(2, length=1000)
        self.assertEqual(self.assign(), {7: [2]})
        self.assertEqual(self.assign(), {})

    def test_a_worker_with_room_gets_job_after_job_while_another_is_passed_over(self) -> None:
        self.dispatcher.ready(7, 1, 0.0)
        self.add(length=100)
        self.assign()
        self.dispatcher.ready(8, 1, 0.0)
        self.add(3, length=50)
        self.assertEqual(self.assign(), {8: [2, 3]})


class FaultTests(Case):
    """Rules 4, 6 and 7, and workers that pause or leave."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.dispatcher.ready(1, 1, 0.0)
        self.other = self.dispatcher.ready(2, 1, 0.0)

    def test_what_a_lost_worker_held_goes_out_first_and_in_order(self) -> None:
        self.add(10)
        self.assertEqual(self.assign(), {1: [1, 3, 5, 7], 2: [2, 4, 6, 8]})
        self.assertEqual(self.dispatcher.lose(self.one), 4)
        self.assertIsNone(self.dispatcher.verdict(1, Fate.UNREACHABLE, 0.0))
        self.dispatcher.done(self.other, [2, 4, 6, 8], 0.0, 0.0)
        self.assertEqual(self.assign(), {2: [1, 3, 5, 7]})
        self.dispatcher.done(self.other, [1, 3, 5, 7], 0.0, 0.0)
        self.assertEqual(self.assign(), {2: [9, 10]})

    def test_a_job_done_by_a_lost_worker_is_not_handed_out_again(self) -> None:
        self.add(2)
        self.assign()
        self.dispatcher.lose(self.one)
        (entry,) = self.dispatcher.done(None, [1], 0.0, 5.0)
        self.assertEqual((entry.sequence, entry.settled_at), (1, 5.0))
        self.dispatcher.verdict(1, Fate.UNREACHABLE, 0.0)
        self.assertEqual(self.assign(), {})

    def test_a_job_done_by_a_lost_worker_after_the_verdict_is_not_handed_out_again(self) -> None:
        self.add(2)
        self.assign()
        self.lose(1, Fate.UNREACHABLE)
        self.assertEqual(len(self.dispatcher.done(None, [1], 0.0, 5.0)), 1)
        self.assertEqual(self.assign(), {})

    def test_jobs_of_a_lost_worker_wait_for_the_verdict(self) -> None:
        self.add(2)
        self.assign()
        self.dispatcher.lose(self.one)
        self.assertEqual(self.assign(), {})
        self.assertEqual(self.dispatcher.in_flight, 2)
        self.dispatcher.verdict(1, Fate.UNREACHABLE, 0.0)
        self.assertEqual(self.dispatcher.in_flight, 1)
        self.assertEqual(self.assign(), {2: [1]})

    def test_a_job_that_is_done_though_it_failed_before_has_no_error(self) -> None:
        self.add(1)
        self.assign()
        self.dispatcher.failed(self.one, 1, FailedAttempt("no", delay=0.0), 0.0, 50.0)
        self.assign()
        (entry,) = self.dispatcher.done(None, [1], 0.0, 51.0)
        self.assertEqual((entry.attempt, entry.error, entry.is_dead), (2, None, False))

    def test_a_job_done_by_a_lost_worker_frees_its_place_at_the_next(self) -> None:
        self.add(2)
        self.assign()
        self.lose(1, Fate.UNREACHABLE)
        self.assign()
        self.assertEqual(sorted(self.other.in_flight), [1, 2])
        self.dispatcher.done(None, [1], 0.0, 0.0)
        self.assertEqual((sorted(self.other.in_flight), self.other.bytes), ([2], 1))
        self.assertEqual(self.dispatcher.done(self.other, [1], 0.0, 0.0), [])
        self.assertEqual(self.dispatcher.late, 1)

    def test_jobs_given_back_go_to_the_next_worker_before_all_others(self) -> None:
        self.add(9)
        self.assign()
        self.assertEqual(self.dispatcher.returned(self.one, [7, 5, 2], 0.0), 2)  # 2 is at the other
        self.assertEqual(self.dispatcher.late, 1)
        self.dispatcher.leave(self.one)
        self.dispatcher.done(self.other, [2, 4, 6], 0.0, 0.0)
        self.assertEqual(self.assign(), {2: [5, 7, 9]})

    def test_a_worker_that_gives_back_gets_a_small_window(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        session = self.dispatcher.ready(1, 1, 0.0)
        self.add(50)
        for now in (0.0, 0.001, 0.002, 0.003):
            self.assign(now)
            self.dispatcher.done(session, list(session.in_flight), now + 0.0005, 0.0)
        self.assertGreater(len(self.assign(0.004)[1]), 2)
        self.dispatcher.returned(session, list(session.in_flight), 0.0)
        self.assertEqual(len(self.assign(0.005)[1]), 2)

    def test_a_leaving_worker_gets_nothing_new_and_reports_what_it_has(self) -> None:
        self.add(1)
        self.assign()
        self.dispatcher.leave(self.one)
        self.dispatcher.leave(self.one)
        self.add(2)
        self.assertEqual(self.assign(), {2: [2, 3]})
        self.assertEqual(self.dispatcher.ready_workers, 1)
        self.assertEqual(len(self.dispatcher.done(self.one, [1], 0.0, 0.0)), 1)

    def test_a_paused_worker_gets_nothing_until_its_socket_takes_something_again(self) -> None:
        self.dispatcher.pause(self.one, True)
        self.add(2)
        self.assertEqual(self.assign(), {2: [1, 2]})
        self.dispatcher.pause(self.one, False)
        self.add(2)
        self.assertEqual(self.assign(), {2: [3], 1: [4]})

    def test_a_worker_paused_twice_goes_on_at_once_and_gets_its_share_once(self) -> None:
        self.dispatcher.pause(self.one, True)
        self.dispatcher.pause(self.one, True)
        self.dispatcher.pause(self.one, False)
        self.dispatcher.pause(self.one, False)
        self.add(4)
        self.assertEqual(self.assign(), {2: [1, 3], 1: [2, 4]})

    def test_what_a_lost_worker_gives_back_is_where_it_belongs_already(self) -> None:
        self.add(2)
        self.assign()
        self.lose(1, Fate.UNREACHABLE)
        self.assertEqual(self.dispatcher.returned(None, [1], 0.0), 0)
        self.assertEqual(self.assign(), {2: [1]})
        self.assertEqual(self.dispatcher.late, 1)

    def test_the_dispatcher_knows_its_unsettled_jobs_and_ready_workers(self) -> None:
        self.add(2)
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
        self.add(2)
        self.assertEqual(self.assign(), {2: [1, 2]})
        self.assertEqual(self.dispatcher.lose(self.one), 0)

    def test_reports_that_went_missing_show_in_what_the_worker_counts(self) -> None:
        self.add(3)
        self.assign()
        self.dispatcher.done(self.one, [1], 0.0, 0.0)
        self.dispatcher.failed(self.one, 99, FailedAttempt("no"), 0.0, 0.0)
        self.dispatcher.returned(self.one, [3], 0.0)
        self.assertTrue(self.dispatcher.state(self.one, 1, 3))
        self.assertFalse(self.dispatcher.state(self.one, 1, 4))

    def test_jobs_that_the_worker_does_not_have_show_in_what_it_holds(self) -> None:
        self.add(4)
        self.assertEqual(self.assign(), {1: [1, 3], 2: [2, 4]})
        self.dispatcher.done(self.one, [1], 0.0, 0.0)
        holds = [self.dispatcher.holds(self.one, 2, held) for held in (0, 0, 1, 0, 0, 0, 1)]
        self.assertEqual(holds, [True, True, True, True, True, False, True], "three times running")

    def test_jobs_that_have_not_come_there_yet_are_not_missed(self) -> None:
        self.add(4)
        self.assign()
        for received, held in ((0, 0), (1, 1), (1, 0), (1, 1)) * 3:
            self.assertTrue(self.dispatcher.holds(self.one, received, held))
        self.dispatcher.returned(self.one, [3], 0.0)
        self.assertEqual(self.assign(), {1: [3]})
        for _ in range(3):
            self.assertTrue(self.dispatcher.holds(self.one, 2, 1), "it was sent again")

    def test_a_worker_that_says_it_runs_more_gets_more(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        session = self.dispatcher.ready(1, 1, 0.0)
        self.add(50)
        self.assertEqual(len(self.assign()[1]), 2)
        self.dispatcher.state(session, 10, 0)
        self.assertEqual(len(self.assign()[1]), 9)


class SuspectsTests(Case):
    """Rule 4, of processes that are proven dead. Windows hold 40 jobs."""

    def setUp(self) -> None:
        super().setUp()
        self.dispatcher = Dispatcher(Policy(), window=40)

    def kill_one_of(self, *others: int) -> None:
        """A worker has died with jobs 1 to 40; these others are there."""
        self.ready(1)
        self.add(40)
        self.assign()
        self.ready(*others)
        self.assertIsNone(self.lose(1, Fate.DEAD))

    def test_what_a_dead_worker_held_goes_out_in_sixteenths_each_alone_on_one_worker(self) -> None:
        self.kill_one_of(2, 3, 4, 5)
        self.assertEqual(self.assign(), {2: [1, 2, 3], 3: [4, 5, 6]})
        self.assertEqual(self.assign(), {})
        self.done(3)
        self.assertEqual(self.assign(), {3: [7, 8, 9]})

    def test_suspects_are_redelivered_and_ordinary_jobs_are_not(self) -> None:
        self.kill_one_of(2, 3, 4, 5)
        self.add(1)
        self.assertEqual(self.assign(), {2: [1, 2, 3], 3: [4, 5, 6], 4: [41]})
        self.assertEqual(self.dispatcher.redeliveries, {Cause.LOST: 6, Cause.RETURNED: 0, Cause.RETRY: 0})

    def test_ordinary_jobs_flow_on_the_other_workers(self) -> None:
        self.kill_one_of(2, 3, 4, 5)
        self.add(4)
        self.assertEqual(self.assign(), {2: [1, 2, 3], 3: [4, 5, 6], 4: [41, 43], 5: [42, 44]})

    def test_suspects_are_on_half_of_the_workers_rounded_down(self) -> None:
        self.kill_one_of(2, 3, 4)
        self.assertEqual(self.assign(), {2: [1, 2, 3]})

    def test_suspects_are_on_one_worker_at_least(self) -> None:
        self.kill_one_of(2)
        self.add(1)
        self.assertEqual(self.assign(), {2: [1, 2, 3]})

    def test_those_that_have_lived_longest_get_them(self) -> None:
        self.kill_one_of(9, 3, 7, 5)
        self.assertEqual(sorted(self.assign()), [3, 5])

    def test_a_worker_that_has_ordinary_jobs_gets_suspects_when_these_are_done(self) -> None:
        self.ready(1, 2, 3)
        self.add(6)
        self.assertEqual(self.assign(), {1: [1, 4], 2: [2, 5], 3: [3, 6]})
        self.lose(1, Fate.DEAD)
        self.add(2)
        self.assertEqual(self.assign(), {3: [7, 8]})
        self.done(2)
        self.assertEqual(self.assign(), {2: [1]})

    def test_ordinary_jobs_of_a_worker_that_waits_for_suspects_are_no_suspects(self) -> None:
        self.ready(1, 2, 3)
        self.add(6)
        self.assign()
        self.lose(1, Fate.DEAD)
        self.assign()
        self.dispatcher.returned(self.at(2), [5], 0.0)
        self.assertEqual(self.assign(), {3: [5]})
        self.ready(4)
        self.lose(2, Fate.UNREACHABLE)
        self.assertEqual(self.assign(), {4: [2]})

    def test_ordinary_jobs_of_a_worker_that_had_suspects_are_no_suspects(self) -> None:
        self.ready(1, 2)
        self.add(1)
        self.assign()
        self.lose(1, Fate.DEAD)
        self.assertEqual(self.assign(at=52.0), {2: [1]})
        self.done(2)
        self.assign()
        self.add(2)
        self.assertEqual(self.assign(), {2: [2, 3]})
        self.ready(3)
        self.dispatcher.returned(self.at(2), [3], 0.0)
        self.add(1)
        self.assertEqual(self.assign(), {2: [3], 3: [4]})

    def test_one_job_or_group_needs_one_worker_and_the_others_stay_free(self) -> None:
        self.ready(1, 2, 3, 4, 5)
        self.add(1)
        self.assign()
        self.lose(1, Fate.DEAD)
        self.add(3)
        self.assertEqual(self.assign(at=52.0), {2: [1], 3: [2], 4: [3], 5: [4]})

    def test_a_worker_gets_ordinary_jobs_again_once_no_suspects_are_left(self) -> None:
        self.kill_one_of(2)
        for _ in range(14):
            self.assign()
            self.done(2)
        self.assertEqual(self.assign(), {})
        self.add(1)
        self.assertEqual(self.assign(), {2: [41]})

    def test_a_group_whose_worker_dies_is_cut_and_comes_next(self) -> None:
        self.kill_one_of(2, 3)
        self.assign()
        self.assertIsNone(self.lose(2, Fate.DEAD))
        self.assertEqual(self.assign(), {3: [1]})
        self.done(3)
        self.assertEqual(self.assign(), {3: [2]})

    def test_a_group_whose_worker_is_unreachable_comes_next_as_it_is(self) -> None:
        self.kill_one_of(2, 3)
        self.assign()
        self.assertIsNone(self.lose(2, Fate.UNREACHABLE))
        self.assertEqual(self.assign(), {3: [1, 2, 3]})

    def test_suspects_that_are_given_back_are_suspects_still(self) -> None:
        self.kill_one_of(2, 3)
        self.assign()
        self.dispatcher.returned(self.at(2), [3, 2], 0.0)
        self.add(1)
        self.assertEqual(self.assign(), {3: [41]})
        self.done(2)
        self.assertEqual(self.assign(), {2: [2, 3]})

    def test_a_group_given_back_as_a_whole_does_not_go_where_it_came_from_if_that_leaves(self) -> None:
        self.kill_one_of(2, 3, 4)
        self.assign()
        self.dispatcher.leave(self.at(2))
        self.dispatcher.returned(self.at(2), [1, 2, 3], 0.0)
        self.assertEqual(self.assign(), {3: [1, 2, 3]})

    def test_a_leaving_worker_that_has_suspects_does_not_hold_up_the_others(self) -> None:
        self.kill_one_of(2, 3, 4)
        self.assign()
        self.dispatcher.leave(self.at(2))
        self.assertEqual(self.assign(), {3: [4, 5, 6]})

    def test_a_paused_worker_gets_no_suspects(self) -> None:
        self.kill_one_of(2, 3)
        self.assign()
        self.dispatcher.pause(self.at(2), True)
        self.done(2)
        self.assertEqual(self.assign(), {})
        self.dispatcher.pause(self.at(2), False)
        self.assertEqual(self.assign(), {2: [4, 5, 6]})

    def test_workers_are_let_go_when_they_are_more_than_half_of_those_that_are_left(self) -> None:
        self.kill_one_of(2, 3, 4, 5)
        self.assign()
        self.lose(4, Fate.UNREACHABLE)
        self.lose(5, Fate.UNREACHABLE)
        self.done(2)
        self.add(1)
        self.assertEqual(self.assign(), {2: [41]})

    def test_a_leaving_worker_is_not_suspected_of_having_died_of_what_it_had(self) -> None:
        for fate in (Fate.DEAD, Fate.OVERDUE):
            self.dispatcher = Dispatcher(Policy(), window=40)
            self.numbers = 0
            self.ready(1, 2)
            self.add(1)
            self.assign()
            self.dispatcher.leave(self.at(1))
            self.assertIsNone(self.lose(1, fate))
            self.add(1)
            self.assertEqual(self.assign(), {2: [1, 2]})

    def test_a_job_that_was_alone_is_struck_and_after_a_rest_goes_out_alone(self) -> None:
        self.ready(1, 2)
        self.add(1)
        self.assign()
        entry = self.lose(1, Fate.DEAD)
        assert entry is not None
        self.assertEqual((entry.sequence, entry.strikes, entry.attempt, entry.settled_at), (1, 1, 1, None))
        self.assertEqual(entry.error, "worker processes that died while it was there alone: 1")
        self.assertEqual(entry.due, 50.0 + STRIKE_REST)
        self.add(1)
        self.assertEqual(self.assign(at=51.9), {2: [2]})
        self.done(2)
        self.add(1)
        self.assertEqual(self.assign(at=52.0), {2: [1]})

    def test_the_third_strike_makes_a_dead_letter(self) -> None:
        self.ready(1, 2, 3)
        self.add(1)
        for number in (1, 2):
            self.assign(at=100.0)
            entry = self.lose(number, Fate.DEAD)
            assert entry is not None and not entry.is_dead
            self.assertEqual(entry.due, 50.0 + number * STRIKE_REST)
        self.assign(at=100.0)
        entry = self.lose(3, Fate.DEAD)
        assert entry is not None
        self.assertEqual((entry.strikes, entry.is_dead, entry.settled_at), (3, True, 50.0))
        self.assertIsNone(self.dispatcher.entry(1))

    def test_a_job_that_kills_its_worker_is_found_and_the_jobs_beside_it_are_not_punished(self) -> None:
        self.dispatcher = Dispatcher(Policy(), window=500)
        self.add(1000)
        self.ready(1, 2)
        done: set[int] = set()
        dead: list[Entry] = []
        deaths = 0
        numbers = count(3)
        while len(done) + len(dead) < 1000:
            for number, jobs in self.assign(at=100.0).items():
                if 777 not in jobs:
                    done.update(jobs)
                    self.done(number)
                    continue
                deaths += 1
                entry = self.lose(number, Fate.DEAD)
                assert entry is None or (entry.sequence, entry.strikes) == (777, deaths - 3)
                dead += [entry] if entry is not None and entry.is_dead else []
                self.ready(next(numbers))
        # 500 jobs, 32 of them, 2 of them, and three times the one
        self.assertEqual(([entry.sequence for entry in dead], deaths), ([777], 6))

    def test_a_lost_worker_that_had_nothing_is_forgotten(self) -> None:
        self.ready(1)
        self.assertIsNone(self.lose(1, Fate.DEAD))
        self.assertIsNone(self.dispatcher.session(1))

    def test_jobs_that_were_struck_before_a_restart_go_out_alone(self) -> None:
        self.ready(1, 2)
        self.dispatcher.add_retries([Entry(1, b"", b"{}", 0.0, strikes=2, due=40.0)], None)
        self.dispatcher.add([Entry(n, b"", b"{}", 0.0) for n in (2, 3)])
        self.assertEqual(self.assign(at=50.0), {1: [1], 2: [2, 3]})


class FailuresTests(Case):
    """Rule 5."""

    def setUp(self) -> None:
        super().setUp()
        self.ready(1, 2)

    def fail_first(self, failure: FailedAttempt) -> Entry:
        """Job 1 fails at worker 1, at 50."""
        self.add(1)
        self.assign()
        entry = self.dispatcher.failed(self.at(1), 1, failure, 3.0, 50.0)
        assert entry is not None
        return entry

    def test_a_failed_job_waits_for_its_next_attempt(self) -> None:
        entry = self.fail_first(FailedAttempt("no", delay=7.0))
        self.assertEqual((entry.attempt, entry.due, entry.error, entry.settled_at), (2, 57.0, "no", None))
        self.assertEqual((self.at(1).in_flight, self.at(1).bytes), ({}, 0))
        self.assertEqual(self.assign(at=56.9), {})
        self.assertEqual(self.assign(at=57.0), {2: [1]})
        self.assertIsNone(entry.due)

    def test_without_a_delay_of_its_own_the_backoff_says_how_long(self) -> None:
        self.patch(random, "uniform", lambda low, high: high)
        self.assertEqual(self.fail_first(FailedAttempt("no")).due, 51.0)
        self.assign(at=51.0)
        entry = self.dispatcher.failed(self.at(2), 1, FailedAttempt("no"), 0.0, 60.0)
        assert entry is not None
        self.assertEqual(entry.due, 62.0)

    def test_failures_count_for_the_window_of_their_worker(self) -> None:
        self.dispatcher = Dispatcher(Policy())
        session = self.dispatcher.ready(7, 1, 0.0)
        self.add(50)
        for now in (0.0, 0.001, 0.002, 0.003):
            self.assign(now)
            for number in list(session.in_flight):
                self.dispatcher.failed(session, number, FailedAttempt("no", is_final=True), now + 0.0005, 50.0)
        self.assertGreater(len(self.assign(0.004)[7]), 2)

    def test_no_delay_at_all_is_a_delay_too(self) -> None:
        self.assertEqual(self.fail_first(FailedAttempt("no", delay=0.0)).due, 50.0)

    def test_a_final_failure_makes_a_dead_letter_at_once(self) -> None:
        entry = self.fail_first(FailedAttempt("never", is_final=True))
        self.assertEqual((entry.is_dead, entry.settled_at, entry.attempt, entry.error), (True, 50.0, 1, "never"))
        self.assertIsNone(self.dispatcher.entry(1))
        self.assertEqual(self.assign(at=1000.0), {})

    def test_the_last_attempt_makes_a_dead_letter(self) -> None:
        self.fail_first(FailedAttempt("no", delay=0.0))
        for _ in range(2):
            (number,) = self.assign()
            entry = self.dispatcher.failed(self.at(number), 1, FailedAttempt("no", delay=0.0), 0.0, 50.0)
        assert entry is not None
        self.assertEqual((entry.is_dead, entry.attempt), (True, 3))

    def test_a_failure_counts_only_from_where_the_job_is(self) -> None:
        self.add(1)
        self.assign()
        for session in (self.at(2), None):
            self.assertIsNone(self.dispatcher.failed(session, 1, FailedAttempt("no"), 0.0, 0.0))
        self.assertIsNone(self.dispatcher.failed(self.at(1), 5, FailedAttempt("no"), 0.0, 0.0))
        self.assertEqual((self.dispatcher.late, sorted(self.at(1).in_flight)), (3, [1]))

    def test_a_job_that_is_due_again_goes_out_before_those_that_never_did(self) -> None:
        self.fail_first(FailedAttempt("no", delay=0.0))
        self.add(1)
        self.assertEqual(self.assign(), {2: [1], 1: [2]})

    def test_a_loss_is_no_attempt(self) -> None:
        self.add(1)
        self.assign()
        self.lose(1, Fate.UNREACHABLE)
        entry = self.dispatcher.entry(1)
        assert entry is not None
        self.assertEqual((entry.attempt, entry.strikes, entry.error), (1, 0, None))

    def test_a_failed_job_that_is_done_late_is_not_tried_again(self) -> None:
        self.fail_first(FailedAttempt("no", delay=1.0))
        self.assertEqual(len(self.dispatcher.done(None, [1], 0.0, 50.0)), 1)
        self.assertEqual(self.assign(at=60.0), {})

    def test_a_suspect_that_fails_by_its_handler_is_no_suspect_any_more(self) -> None:
        self.ready(3)
        self.add(4)
        self.assign()
        self.lose(1, Fate.DEAD)
        self.done(2)
        self.assertEqual(self.assign(), {2: [1]})
        self.dispatcher.failed(self.at(2), 1, FailedAttempt("no", delay=0.0), 0.0, 50.0)
        self.assertEqual(self.assign(), {2: [4], 3: [1]})

    def test_a_job_that_was_struck_goes_out_alone_after_it_has_failed_as_well(self) -> None:
        self.ready(3)
        self.add(1)
        self.assign()
        self.lose(1, Fate.DEAD)
        self.assertEqual(self.assign(at=52.0), {2: [1]})
        self.dispatcher.failed(self.at(2), 1, FailedAttempt("no", delay=0.0), 0.0, 52.0)
        self.add(2)
        self.assertEqual(self.assign(at=52.0), {2: [1], 3: [2, 3]})

    def test_jobs_left_to_the_store_are_forgotten_until_they_are_read(self) -> None:
        self.dispatcher = Dispatcher(Policy(), window=4, bounded=True)
        self.dispatcher.retries.load_all()
        self.ready(1)
        entry = self.fail_first(FailedAttempt("no", delay=7.0))
        self.assertIsNone(self.dispatcher.entry(1))
        self.assertIsNone(self.dispatcher.next_deadline(0.0, 50.0))
        self.dispatcher.retries.ask_for_page()
        self.dispatcher.add_retries([entry], None)
        self.assertIs(self.dispatcher.entry(1), entry)
        self.assertEqual(self.assign(at=57.0), {1: [1]})

    def test_what_is_in_memory_already_is_not_taken_from_a_page(self) -> None:
        self.fail_first(FailedAttempt("no", delay=7.0))
        self.dispatcher.add_retries([Entry(1, b"", b"{}", 0.0, due=57.0), Entry(2, b"", b"{}", 0.0, due=57.0)], None)
        self.assertEqual(self.assign(at=57.0), {2: [1], 1: [2]})


class RedeliveryTests(Case):
    """Why a job is handed out again."""

    def counted(self) -> dict[str, int]:
        return {cause.value: count for cause, count in self.dispatcher.redeliveries.items() if count}

    def hand_out(self, *workers: int) -> None:
        """One job, to the first of these workers."""
        self.ready(*workers)
        self.add(1)
        self.assign()

    def test_a_first_delivery_does_not_count(self) -> None:
        self.hand_out(1)
        self.assertEqual(self.counted(), {})

    def test_a_job_counts_when_it_is_handed_out_again_and_not_before(self) -> None:
        self.hand_out(1)
        self.lose(1, Fate.UNREACHABLE)
        self.assign()
        self.assertEqual(self.counted(), {})
        self.ready(2)
        self.assign()
        self.assertEqual(self.counted(), {"lost": 1})

    def test_what_an_unreachable_worker_held_was_lost(self) -> None:
        self.ready(1)
        self.add(3)
        self.assign()
        self.lose(1, Fate.UNREACHABLE)
        self.ready(2)
        self.assign()
        self.assertEqual(self.counted(), {"lost": 3})

    def test_what_a_worker_held_that_was_leaving_was_lost(self) -> None:
        self.hand_out(1, 2)
        self.dispatcher.leave(self.at(1))
        self.lose(1, Fate.DEAD)
        self.assign()
        self.assertEqual(self.counted(), {"lost": 1})

    def test_a_job_that_was_struck_was_lost(self) -> None:
        self.hand_out(1, 2)
        self.lose(1, Fate.DEAD)
        self.assign(at=52.0)
        self.assertEqual(self.counted(), {"lost": 1})

    def test_several_jobs_of_an_overdue_worker_were_lost_and_one_alone_is_a_retry(self) -> None:
        self.ready(1)
        self.add(2)
        self.assign()
        self.lose(1, Fate.OVERDUE)
        self.ready(2)
        self.assign()
        self.assertEqual(self.counted(), {"lost": 1})
        self.lose(2, Fate.OVERDUE)
        self.ready(3, 4)
        self.assign(at=60.0)
        self.assertEqual(self.counted(), {"lost": 2, "retry": 1})

    def test_what_a_worker_gives_back_was_returned(self) -> None:
        self.hand_out(1, 2)
        self.dispatcher.returned(self.at(1), [1], 0.0)
        self.assign()
        self.assertEqual(self.counted(), {"returned": 1})

    def test_a_suspect_that_is_given_back_was_returned(self) -> None:
        self.hand_out(1, 2)
        self.lose(1, Fate.DEAD)
        self.assign(at=52.0)
        self.dispatcher.returned(self.at(2), [1], 0.0)
        self.assign(at=52.0)
        self.assertEqual(self.counted(), {"lost": 1, "returned": 1})

    def test_a_job_that_failed_is_a_retry(self) -> None:
        self.hand_out(1)
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=1.0), 0.0, 50.0)
        self.assign(at=51.0)
        self.assertEqual(self.counted(), {"retry": 1})

    def test_a_dead_letter_that_is_tried_again_is_a_retry(self) -> None:
        self.ready(1)
        self.dispatcher.add_retry(Entry(1, b"", b"{}", 0.0, due=50.0))
        self.assign()
        self.assertEqual(self.counted(), {"retry": 1})

    def test_it_is_the_latest_cause_that_counts(self) -> None:
        self.hand_out(1, 2)
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=0.0), 0.0, 50.0)
        self.assertEqual(self.assign(), {2: [1]})
        self.lose(2, Fate.DEAD)
        self.assertEqual(self.assign(at=52.0), {1: [1]})
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=0.0), 0.0, 52.0)
        self.assertEqual(self.assign(at=52.0), {1: [1]})
        self.assertEqual(self.counted(), {"retry": 2, "lost": 1})

    def test_a_job_that_was_struck_before_a_restart_was_lost_unless_it_had_failed(self) -> None:
        self.ready(1, 2, 3, 4)
        page = [Entry(1, b"", b"{}", 0.0, strikes=2, due=40.0), Entry(2, b"", b"{}", 0.0, attempt=2, due=41.0)]
        page += [Entry(3, b"", b"{}", 0.0, attempt=2, strikes=1, due=42.0), Entry(4, b"", b"{}", 0.0, due=43.0)]
        self.dispatcher.add_retries(page, None)
        self.assign()
        for number in (1, 2, 3, 4):
            self.done(number)
            self.assign()
        self.assertEqual(self.counted(), {"lost": 1, "retry": 3})

    def test_a_job_that_was_settled_while_it_waited_does_not_count(self) -> None:
        self.hand_out(1)
        self.lose(1, Fate.UNREACHABLE)
        self.dispatcher.done(None, [1], 0.0, 50.0)
        self.ready(2)
        self.assign()
        self.assertEqual(self.counted(), {})


class WaitingTests(Case):
    """Since when the job waits that waits longest."""

    def add_at(self, *times: float) -> None:
        """Jobs that were accepted at these times."""
        self.dispatcher.add([Entry(self.numbers + n, b"x", b"{}", at) for n, at in enumerate(times, 1)])
        self.numbers += len(times)

    def since(self, at: float = 50.0) -> float | None:
        return self.dispatcher.waiting_since(at)

    def test_without_jobs_none_waits(self) -> None:
        self.assertIsNone(self.since())

    def test_a_job_waits_since_its_acceptance_until_it_is_handed_out(self) -> None:
        self.dispatcher = Dispatcher(Policy(), window=1)
        self.add_at(40.0, 41.0)
        self.assertEqual(self.since(), 40.0)
        self.ready(1)
        self.assign()
        self.assertEqual(self.since(), 41.0)
        self.done(1)
        self.assign()
        self.assertIsNone(self.since())

    def test_jobs_that_were_settled_while_they_waited_do_not_count(self) -> None:
        self.add_at(40.0, 41.0, 42.0, 43.0)
        self.dispatcher.done(None, [1, 2], 0.0, 50.0)
        self.assertEqual(self.since(), 42.0)
        self.dispatcher.done(None, [3, 4], 0.0, 50.0)
        self.assertIsNone(self.since())

    def test_what_is_lost_or_given_back_waits_since_its_acceptance(self) -> None:
        self.ready(1)
        self.add_at(40.0, 41.0)
        self.assign()
        self.dispatcher.returned(self.at(1), [2], 0.0)
        self.assertEqual(self.since(), 41.0)
        self.lose(1, Fate.UNREACHABLE)
        self.assertEqual(self.since(), 40.0)
        self.dispatcher.done(None, [1], 0.0, 50.0)
        self.assertEqual(self.since(), 41.0)

    def test_a_retry_waits_since_it_is_due_and_not_before(self) -> None:
        self.ready(1)
        self.add_at(40.0)
        self.assign()
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=5.0), 0.0, 50.0)
        self.lose(1, Fate.UNREACHABLE)
        self.assertIsNone(self.since(54.9))
        self.assertEqual(self.since(56.0), 55.0)
        self.assign(at=57.0)
        self.assertEqual(self.since(58.0), 55.0)

    def test_a_retry_that_is_lost_waits_since_it_was_due(self) -> None:
        self.ready(1)
        self.add_at(40.0)
        self.assign()
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=5.0), 0.0, 50.0)
        self.assign(at=55.0)
        self.assertIsNone(self.since(60.0))
        self.lose(1, Fate.UNREACHABLE)
        self.assertEqual(self.since(60.0), 55.0)

    def test_a_retry_that_was_done_late_does_not_count(self) -> None:
        self.ready(1)
        self.add_at(40.0)
        self.assign()
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=5.0), 0.0, 50.0)
        self.dispatcher.done(None, [1], 0.0, 51.0)
        self.assertIsNone(self.since(60.0))

    def test_the_oldest_may_be_any_of_those_that_were_handed_out_before(self) -> None:
        self.ready(1)
        self.add_at(40.0, 41.0)
        self.assign()
        self.dispatcher.failed(self.at(1), 1, FailedAttempt("no", delay=5.0), 0.0, 50.0)
        self.lose(1, Fate.UNREACHABLE)
        self.assign(at=60.0)
        self.assertEqual(self.since(60.0), 41.0, "the first in turn is the other one")

    def test_suspects_wait_for_a_worker_of_their_own(self) -> None:
        self.ready(1)
        self.add_at(40.0, 41.0)
        self.assign()
        self.dispatcher.lose(self.at(1))
        self.assertIsNone(self.since(), "they are at a worker until there is a verdict")
        self.dispatcher.verdict(1, Fate.DEAD, 50.0)
        self.assertEqual(self.since(), 40.0)
        self.ready(2)
        self.assign()
        self.assertEqual(self.since(), 41.0)


class TimeTests(Case):
    """Rule 8."""

    def setUp(self) -> None:
        super().setUp()
        self.dispatcher = Dispatcher(Policy(timeout=10.0), window=4)
        self.overdue_after = 10.0 + GRACE
        self.session = self.dispatcher.ready(1, 1, 0.0)

    def overdue(self, now: float) -> list[int]:
        return [session.number for session in self.dispatcher.overdue(now)]

    def test_a_worker_that_holds_a_job_for_too_long_is_overdue(self) -> None:
        self.add(1)
        self.assign(100.0)
        self.assertEqual(self.overdue(100.0 + self.overdue_after - 0.1), [])
        self.assertEqual(self.overdue(100.0 + self.overdue_after), [1])
        self.assertEqual(self.dispatcher.next_deadline(105.0, 0.0), self.overdue_after - 5.0)
        self.assertIsNone(self.dispatcher.next_deadline(105.0, 0.0, overdue=False))

    def test_a_worker_that_has_nothing_is_never_overdue(self) -> None:
        self.assertEqual(self.overdue(1000.0), [])
        self.assertIsNone(self.dispatcher.next_deadline(1000.0, 0.0))

    def test_without_a_timeout_no_worker_is_overdue(self) -> None:
        self.dispatcher = Dispatcher(Policy(), window=4)
        self.ready(1)
        self.add(1)
        self.assign()
        self.assertEqual(self.overdue(1e9), [])
        self.assertIsNone(self.dispatcher.next_deadline(0.0, 0.0))

    def test_a_job_more_gives_no_more_time(self) -> None:
        self.add(1)
        self.assign(0.0)
        self.add(1)
        self.assign(5.0)
        self.assertEqual(self.overdue(self.overdue_after), [1])

    def test_each_report_of_what_is_in_flight_gives_time(self) -> None:
        self.add(4)
        self.assign(0.0)
        self.dispatcher.done(self.session, [1], 5.0, 0.0)
        self.assertEqual(self.overdue(5.0 + self.overdue_after - 0.1), [])
        self.dispatcher.failed(self.session, 2, FailedAttempt("no", is_final=True), 6.0, 0.0)
        self.assertEqual(self.overdue(6.0 + self.overdue_after - 0.1), [])
        self.dispatcher.returned(self.session, [3], 7.0)
        self.assertEqual(self.overdue(7.0 + self.overdue_after - 0.1), [])
        self.assertEqual(self.overdue(7.0 + self.overdue_after), [1])

    def test_reports_of_other_jobs_give_no_time(self) -> None:
        self.add(1)
        self.assign(0.0)
        self.dispatcher.done(self.session, [77], 5.0, 0.0)
        self.dispatcher.failed(self.session, 77, FailedAttempt("no"), 6.0, 0.0)
        self.dispatcher.returned(self.session, [77], 7.0)
        self.assertEqual(self.overdue(self.overdue_after), [1])

    def test_a_job_that_is_in_flight_elsewhere_gives_no_time(self) -> None:
        self.dispatcher.ready(2, 1, 0.0)
        self.add(2)
        self.assertEqual(self.assign(0.0), {1: [1], 2: [2]})
        self.assertEqual(len(self.dispatcher.done(self.session, [2], 5.0, 0.0)), 1)
        self.assertEqual(self.overdue(self.overdue_after), [1])

    def test_suspects_have_their_own_time(self) -> None:
        self.dispatcher.ready(2, 1, 0.0)
        self.add(1)
        self.assign(0.0)
        self.lose(1, Fate.DEAD)
        self.assertEqual(self.assign(9.0, at=52.0), {2: [1]})
        self.assertEqual(self.overdue(9.0 + self.overdue_after - 0.1), [])
        self.assertEqual(self.overdue(9.0 + self.overdue_after), [2])

    def test_a_job_that_holds_up_its_worker_alone_has_failed(self) -> None:
        self.add(1)
        self.assign()
        entry = self.lose(1, Fate.OVERDUE)
        assert entry is not None and entry.due is not None
        self.assertEqual((entry.attempt, entry.strikes), (2, 0))
        self.assertEqual(entry.error, "timed out: the handler holds up its worker")
        self.assertTrue(50.0 <= entry.due <= 51.0)

    def test_several_jobs_of_an_overdue_worker_are_suspects(self) -> None:
        self.add(2)
        self.assign()
        self.assertIsNone(self.lose(1, Fate.OVERDUE))
        self.dispatcher.ready(2, 1, 0.0)
        self.assertEqual(self.assign(), {2: [1]})

    def test_the_next_deadline_is_the_first_of_all(self) -> None:
        self.add(1)
        self.assign(0.0)
        self.assertEqual(self.dispatcher.next_deadline(2.0, 50.0), self.overdue_after - 2.0)
        self.dispatcher.add_retry(Entry(9, b"", b"{}", 0.0, due=54.0))
        self.assertEqual(self.dispatcher.next_deadline(2.0, 50.0), 4.0)
        self.assertEqual(self.dispatcher.next_deadline(2.0, 60.0), 0.0)

    def test_a_worker_that_has_been_ready_for_long_has_its_time_from_now(self) -> None:
        self.dispatcher.lose(self.session)
        session = self.dispatcher.ready(2, 1, 500.0, since=3.0)
        self.assertEqual((session.since, session.progress_at), (3.0, 500.0))
