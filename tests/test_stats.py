"""What is counted, by itself; what a pipeline makes of it is in test_observing."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from zpipeline.entry import Cause
from zpipeline.errors import (
    Draining,
    Full,
    JournalError,
    JournalFull,
    KeyReused,
    KeysFull,
    TooLarge,
    UsageError,
)
from zpipeline.histogram import Histogram
from zpipeline.stats import PERIOD, Commits, Measures, Percentiles, Recent


class RecentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.recent = Recent()

    def note(self, *counts: int) -> None:
        for second, count in enumerate(counts):
            self.recent.note(float(second), {"jobs": (count,)})

    def test_before_the_second_note_nothing_has_grown(self) -> None:
        for _ in range(2):
            self.assertEqual((self.recent.rate("jobs"), self.recent.grown("jobs")), (0.0, []))
            self.note(5)

    def test_the_rate_is_that_of_the_last_second(self) -> None:
        self.note(0, 10, 40)
        self.assertEqual(self.recent.rate("jobs"), 30.0)

    def test_a_second_that_took_longer_counts_as_long_as_it_was(self) -> None:
        self.recent.note(0.0, {"jobs": (0,)})
        self.recent.note(2.0, {"jobs": (10,)})
        self.assertEqual(self.recent.rate("jobs"), 5.0)

    def test_a_second_that_took_no_time_has_no_rate(self) -> None:
        self.recent.note(1.0, {"jobs": (0,)})
        self.recent.note(1.0, {"jobs": (10,)})
        self.assertEqual(self.recent.rate("jobs"), 0.0)

    def test_what_has_grown_is_of_the_whole_period_and_no_longer(self) -> None:
        self.note(*range(0, 1000, 10))
        self.assertEqual(self.recent.grown("jobs"), [10 * PERIOD])

    def test_percentiles_are_of_the_period(self) -> None:
        histogram = Histogram()
        self.recent.note(0.0, {"run": tuple(histogram.counts)})
        histogram.observe([400.0])
        self.recent.note(1.0, {"run": tuple(histogram.counts)})
        self.assertEqual(self.recent.percentiles("run"), Percentiles(300.0, 300.0, 300.0))
        for second in range(2, 2 + PERIOD):
            self.recent.note(float(second), {"run": tuple(histogram.counts)})
        self.assertEqual(self.recent.percentiles("run"), Percentiles(None, None, None))

    def test_there_are_no_percentiles_before_the_second_note(self) -> None:
        self.assertEqual(self.recent.percentiles("run"), Percentiles())


class MeasuresTests(SynchronousTestCase):
    def test_each_refusal_has_its_reason(self) -> None:
        for error, reason in (
            (Full(""), "full"),
            (Draining(), "draining"),
            (TooLarge(), "too_large"),
            (JournalError(), "journal"),
            (JournalFull(), "journal_full"),
            (KeyReused(), "key_reused"),
            (KeysFull(), "keys_full"),
        ):
            measures = Measures()
            measures.refuse(error, 3)
            self.assertEqual({name: count for name, count in measures.refused.items() if count}, {reason: 3})

    def test_a_mistake_is_no_refusal(self) -> None:
        measures = Measures()
        measures.refuse(UsageError(), 1)
        self.assertEqual(set(measures.refused.values()), {0})

    def test_redeliveries_count_whatever_their_cause(self) -> None:
        measures = Measures()
        self.assertEqual(measures.redelivered, 0)
        for number, cause in enumerate(Cause, 1):
            measures.redeliveries[cause] += number
        self.assertEqual(measures.redelivered, 6)

    def test_a_commit_counts_by_its_time_and_by_its_jobs(self) -> None:
        commits = Commits()
        commits.observe(0.02, 7)
        self.assertEqual((commits.seconds.sum, commits.seconds.total), (0.02, 1))
        self.assertEqual((commits.jobs.sum, commits.jobs.total), (7, 1))
