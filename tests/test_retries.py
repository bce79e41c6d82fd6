"""Jobs that wait for another attempt: in order, in bounded memory, and read from the store when they are few."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline import retries
from zpipeline.entry import Entry
from zpipeline.errors import UsageError
from zpipeline.retries import MAX_ATTEMPTS, MOST, MOST_BYTES, Policy, Retries


def entry(number: int, due: float, length: int = 1) -> Entry:
    return Entry(number, b"x" * length, b"{}", 0.0, due=due)


class PolicyTests(unittest.SynchronousTestCase):
    def longest(self, policy: Policy, attempt: int) -> float:
        """The longest that chance may choose."""
        self.patch(random, "uniform", lambda low, high: high)
        return policy.delay(attempt)

    def test_the_defaults_are_those_that_are_documented(self) -> None:
        self.assertEqual(Policy(), Policy(5, 1.0, 300.0, None))

    def test_the_longest_delay_doubles_up_to_a_bound(self) -> None:
        policy = Policy(first=2.0, longest=15.0)
        self.assertEqual([self.longest(policy, attempt) for attempt in (1, 2, 3, 4, 5)], [2.0, 4.0, 8.0, 15.0, 15.0])

    def test_there_may_be_any_number_of_attempts(self) -> None:
        self.assertEqual(self.longest(Policy(), 100_000), 300.0)

    def test_chance_chooses_among_all_delays_from_zero(self) -> None:
        chosen: list[tuple[float, float]] = []

        def uniform(low: float, high: float) -> float:
            chosen.append((low, high))
            return 0.25

        self.patch(random, "uniform", uniform)
        self.assertEqual(Policy(first=3.0).delay(1), 0.25)
        self.assertEqual(chosen, [(0, 3.0)])

    def test_numbers_that_cannot_work_are_refused(self) -> None:
        for bad in (
            {"attempts": 0},
            {"attempts": MAX_ATTEMPTS + 1},
            {"first": -1.0},
            {"first": 2.0, "longest": 1.0},
            {"longest": float("inf")},
            {"timeout": 0.0},
            {"timeout": float("inf")},
            {"timeout": float("nan")},
        ):
            with self.subTest(bad=bad):
                self.assertRaises(UsageError, Policy, **bad)

    def test_the_extremes_that_can_work_are_taken(self) -> None:
        Policy(attempts=1, first=0.0, longest=0.0, timeout=0.001)
        Policy(attempts=MAX_ATTEMPTS, first=5.0, longest=5.0)


class Case(unittest.SynchronousTestCase):
    """Eight jobs may be in memory, and 100 bytes."""

    def setUp(self) -> None:
        self.patch(retries, "MOST", 8)
        self.patch(retries, "MOST_BYTES", 100)
        self.retries = Retries(bounded=True)

    def add(self, *dues: float, length: int = 1) -> list[int]:
        """Jobs of which each has its time for a number: those that are not in memory then."""
        return [gone.sequence for due in dues for gone in self.retries.add(entry(int(due), due, length))]

    def take(self, at: float = 1e9) -> list[int]:
        return [due.sequence for due in self.retries.take_due(at)]


class WaitingTests(Case):
    def test_the_bounds_are_10_000_jobs_and_16_mebibytes(self) -> None:
        self.assertEqual((MOST, MOST_BYTES), (10_000, 16 * 1024 * 1024))

    def test_they_are_taken_when_they_are_due_and_the_soonest_first(self) -> None:
        self.add(7, 3, 5)
        self.assertEqual(self.retries.next_due, 3)
        self.assertEqual(self.take(2.9), [])
        self.assertEqual(self.take(5), [3, 5])
        self.assertEqual((self.retries.next_due, len(self.retries)), (7, 1))

    def test_of_those_that_are_due_together_the_oldest_is_first(self) -> None:
        for number in (5, 9, 1):
            self.retries.add(entry(number, 4.0))
        self.assertEqual(self.take(), [1, 5, 9])

    def test_with_none_there_is_nothing_to_wait_for(self) -> None:
        self.assertIsNone(self.retries.next_due)
        self.assertIsNone(self.retries.ask_for_page())

    def test_those_settled_meanwhile_are_left_out(self) -> None:
        job = entry(1, 1.0)
        self.retries.add(job)
        job.settled_at = 0.5
        self.assertEqual(self.take(), [])
        self.assertEqual(len(self.retries), 0)

    def test_without_a_store_all_are_in_memory(self) -> None:
        self.retries = Retries(bounded=False)
        self.assertEqual(self.add(*range(1, 101)), [])
        self.assertIsNone(self.retries.horizon)
        self.assertEqual(self.take(), list(range(1, 101)))


class BoundsTests(Case):
    def test_as_many_as_the_bound_stay(self) -> None:
        self.assertEqual(self.add(*range(1, 9)), [])
        self.assertIsNone(self.retries.horizon)

    def test_one_more_leaves_the_sooner_half(self) -> None:
        self.add(*range(8, 0, -1))
        self.assertEqual(self.add(9), [5, 6, 7, 8, 9])
        self.assertEqual(self.retries.horizon, (4, 4))
        self.assertEqual(self.take(), [1, 2, 3, 4])

    def test_as_many_bytes_as_the_bound_stay(self) -> None:
        self.assertEqual(self.add(1, 2, length=50), [])

    def test_one_byte_more_leaves_the_sooner_half(self) -> None:
        self.add(1, 2, 3, 4, length=20)
        self.assertEqual(self.add(5, length=21), [3, 4, 5])

    def test_no_more_stay_once_they_have_half_of_the_bytes(self) -> None:
        self.add(1, length=60)
        self.add(2, 3, 4, length=5)
        self.assertEqual(self.add(5, length=30), [2, 3, 4, 5])

    def test_what_has_stayed_counts_for_the_next(self) -> None:
        self.add(1, 2, 3, 4, length=20)
        self.add(5, length=21)
        self.assertEqual(self.add(0, length=60), [])
        self.assertEqual(self.add(1.5, length=1), [1, 1, 2])

    def test_one_job_of_any_size_stays(self) -> None:
        self.assertEqual(self.add(1, length=1000), [])
        self.assertEqual(self.take(), [1])

    def test_what_is_taken_makes_room(self) -> None:
        self.add(1, 2, length=50)
        self.take(1)
        self.assertEqual(self.add(3, length=50), [])

    def test_those_settled_meanwhile_are_not_said_to_be_left_out(self) -> None:
        job = entry(9, 9.0)
        self.retries.add(job)
        job.settled_at = 0.5
        self.assertEqual(self.add(*range(1, 9)), [5, 6, 7, 8])

    def test_what_is_due_at_the_horizon_itself_stays(self) -> None:
        self.add(*range(1, 10))
        self.take(4)
        self.assertEqual(self.retries.horizon, (4, 4))
        self.assertEqual(self.add(4), [])

    def test_what_is_due_beyond_the_horizon_is_left_out(self) -> None:
        self.add(*range(1, 10))
        self.assertEqual(self.add(5), [5])
        self.assertEqual([gone.sequence for gone in self.retries.add(entry(5, 4.0))], [5])
        self.assertEqual([gone.sequence for gone in self.retries.add(entry(3, 4.0))], [])
        self.assertEqual(self.add(2.5), [])
        self.assertEqual(self.take(), [1, 2, 2, 3, 3, 4])


class PagesTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.add(*range(1, 10))  # 1 to 4 are in memory

    def test_a_page_is_asked_for_when_a_quarter_is_left(self) -> None:
        self.take(1)
        self.assertIsNone(self.retries.ask_for_page())
        self.take(2)
        self.assertEqual(self.retries.ask_for_page(), (4, 4))

    def test_no_page_is_asked_for_while_many_bytes_are_left(self) -> None:
        self.take(3)
        self.add(3.5, length=25)
        self.assertIsNone(self.retries.ask_for_page())
        self.take(3.5)
        self.assertEqual(self.retries.ask_for_page(), (4, 4))

    def test_no_other_page_is_asked_for_before_it_came(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.assertIsNone(self.retries.ask_for_page())

    def test_a_page_that_could_not_be_read_is_asked_for_again(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.retries.page_failed()
        self.assertEqual(self.retries.ask_for_page(), (4, 4))

    def test_a_page_moves_the_horizon(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.retries.add_page([entry(6, 6.0), entry(5, 5.0)], (6.0, 6))
        self.assertEqual(self.add(7), [7])
        self.assertEqual(self.add(5.5), [])
        self.assertEqual(self.retries.ask_for_page(), None)
        self.assertEqual(self.take(), [5, 5, 6])
        self.assertEqual(self.retries.ask_for_page(), (6.0, 6))

    def test_a_page_comes_before_what_is_due_after_it(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.add(10)
        self.retries.add_page([entry(5, 5.0)], (5.0, 5))
        self.assertEqual(self.retries.next_due, 5.0)

    def test_the_last_page_ends_it(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.retries.add_page([entry(5, 5.0)], None)
        self.assertEqual(self.add(70), [])
        self.assertEqual(self.take(), [5, 70])
        self.assertIsNone(self.retries.ask_for_page())

    def test_bytes_of_a_page_count(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.retries.add_page([entry(5, 5.0, 60), entry(6, 6.0, 40)], (6.0, 6))
        self.assertEqual(self.add(5.5), [5, 6])

    def test_while_a_page_is_awaited_nothing_is_left_out(self) -> None:
        self.take(4)
        self.retries.ask_for_page()
        self.assertEqual(self.add(*range(10, 30)), [])
        self.retries.add_page([], None)
        self.assertEqual(len(self.add(30)), 11)

    def test_all_that_a_store_has_from_before_is_read(self) -> None:
        self.retries = Retries(bounded=True)
        self.retries.load_all()
        self.assertEqual(self.add(1), [1])
        after = self.retries.ask_for_page()
        assert after is not None
        self.assertLess(after, (-1e300, 0))

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0, 1, 10, 30])), max_size=60), st.randoms())
    def test_with_pages_all_come_out_in_order_and_few_are_in_memory(
        self, jobs: list[tuple[int, int]], chance: random.Random
    ) -> None:
        waiting = Retries(bounded=True)
        store: dict[int, Entry] = {}  # all that wait
        here: set[int] = set()
        taken: list[tuple[float, int]] = []
        for number, (due, length) in enumerate(jobs):
            store[number] = entry(number, float(due), length)
            here.add(number)
            here.difference_update(gone.sequence for gone in waiting.add(store[number]))
            self.assertLessEqual(len(waiting), 8)
        while True:
            after = waiting.ask_for_page()
            if after is not None:
                keys = sorted((job.due, number) for number, job in store.items() if (job.due, number) > after)
                page = keys[:4]
                new = [number for _, number in page if number not in here]
                here.update(new)
                waiting.add_page([store[number] for number in new], page[-1] if len(keys) > 4 else None)
            if waiting.next_due is None:
                break
            for job in waiting.take_due(waiting.next_due):
                taken.append((job.due or 0.0, job.sequence))
                del store[job.sequence]
                here.remove(job.sequence)
        self.assertEqual(taken, sorted((float(due), number) for number, (due, _) in enumerate(jobs)))
