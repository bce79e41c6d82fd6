"""Histograms: what is counted where, and what is read off them."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from zpipeline.histogram import JOBS, SECONDS, Histogram, Timings

thorough = settings(max_examples=200, deadline=None, database=None)
times = st.lists(st.floats(0, 1000) | st.sampled_from(SECONDS), max_size=50)


def of(*values: float) -> Histogram:
    histogram = Histogram()
    histogram.observe(values)
    return histogram


class CountingTests(SynchronousTestCase):
    @thorough
    @given(times)
    def test_each_value_is_counted_up_to_the_first_bound_that_it_is_not_above(self, values: list[float]) -> None:
        counts = [0] * (len(SECONDS) + 1)
        for value in values:
            counts[bisect_left(SECONDS, value)] += 1
        self.assertEqual(of(*values).counts, counts)

    @thorough
    @given(times)
    def test_the_sum_and_the_number_are_those_of_all_values(self, values: list[float]) -> None:
        self.assertAlmostEqual(of(*values).sum, sum(values), places=6)
        self.assertEqual(of(*values).total, len(values))
        mean = of(*values).mean
        if mean is None:
            self.assertEqual(values, [])
        else:
            self.assertAlmostEqual(mean, sum(values) / len(values), places=6)

    def test_what_is_below_zero_is_zero(self) -> None:
        self.assertEqual(of(-5.0, 0.1), of(0.0, 0.1))

    def test_the_bounds_may_be_others(self) -> None:
        histogram = Histogram(JOBS)
        histogram.observe([1, 3, 100_000])
        self.assertEqual([place for place, count in enumerate(histogram.counts) if count], [0, 2, len(JOBS)])

    def test_what_was_observed_is_left_as_it_was(self) -> None:
        values = [3.0, 1.0, -2.0]
        Histogram().observe(values)
        self.assertEqual(values, [3.0, 1.0, -2.0])

    @thorough
    @given(times, times)
    def test_what_is_added_can_be_told_from_what_was_there(self, before: list[float], after: list[float]) -> None:
        both = of(*before)
        both.add(of(*after))
        self.assertEqual(both.counts, of(*before, *after).counts)
        since = both.since(of(*before))
        self.assertEqual(since.counts, of(*after).counts)
        self.assertAlmostEqual(since.sum, sum(after), places=6)

    def test_what_has_become_less_is_no_later_state(self) -> None:
        for now, before in ((of(0.1), of(0.2)), (of(0.001), of(0.002)), (of(0.1), of(0.1, 0.1))):
            self.assertRaises(ValueError, now.since, before)

    def test_timings_are_two_of_them(self) -> None:
        timings = Timings(of(1.0), of(2.0))
        timings.add(Timings(of(3.0), of(4.0)))
        self.assertEqual(timings, Timings(of(1.0, 3.0), of(2.0, 4.0)))
        self.assertEqual(timings.since(Timings(of(1.0), of(2.0))), Timings(of(3.0), of(4.0)))


class QuantileTests(SynchronousTestCase):
    def test_there_is_none_where_there_are_no_values(self) -> None:
        self.assertIsNone(Histogram().quantile(0.5))

    def test_values_between_two_bounds_are_taken_to_lie_evenly(self) -> None:
        histogram = of(*[2.0] * 10)  # between 1 and 2.5
        self.assertAlmostEqual(histogram.quantile(0.5), 1.75)
        self.assertAlmostEqual(histogram.quantile(1.0), 2.5)
        self.assertAlmostEqual(histogram.quantile(0.1), 1.15)

    def test_values_below_the_first_bound_begin_at_zero(self) -> None:
        self.assertAlmostEqual(of(0.0001).quantile(0.5), SECONDS[0] / 2)

    def test_values_above_all_bounds_count_as_the_highest_bound(self) -> None:
        self.assertEqual(of(1000.0).quantile(0.5), SECONDS[-1])
        self.assertEqual(of(0.1, 1000.0).quantile(0.99), SECONDS[-1])

    @thorough
    @given(st.lists(st.floats(0, 300), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
    def test_it_lies_between_the_bounds_that_the_true_one_lies_between(self, values: list[float], share: float) -> None:
        rank = max(1, -(-round(share * 100) * len(values) // 100))  # rounded up
        true = sorted(values)[rank - 1]
        place = bisect_left(SECONDS, true)
        lower = SECONDS[place - 1] if place else 0.0
        found = of(*values).quantile(share)
        assert found is not None
        self.assertTrue(lower <= found <= SECONDS[place], (found, true))
