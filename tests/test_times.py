"""SteadyTimes, by clocks of the test's own."""

from __future__ import annotations

import time
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from zpipeline import times as module
from zpipeline.times import LEAST_STEP, SteadyTimes

HOUR = 3600.0
NOW = 1_700_000_000.0


class SteadyTimesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wall = NOW
        self.boot = 1000.0
        self.patch(module, "time", SimpleNamespace(time=lambda: self.wall, monotonic=lambda: self.boot))
        self.patch(module, "since_boot", lambda: self.boot)
        self.times = SteadyTimes()

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds

    def test_it_begins_as_the_clock_is_and_goes_on_steadily(self) -> None:
        self.assertEqual(self.times.time(), NOW)
        self.passes(10)
        self.wall -= HOUR
        self.assertEqual((self.times.time(), self.times.wall()), (NOW + 10, NOW + 10 - HOUR))
        self.wall += 5 * HOUR
        self.assertEqual(self.times.time(), NOW + 10)

    def test_each_step_is_told_once(self) -> None:
        self.assertEqual(self.times.look(), 0.0)
        for step, skew in ((HOUR, HOUR), (-2 * HOUR, -HOUR), (HOUR, 0.0)):
            self.wall += step
            self.passes(1)
            self.assertEqual((self.times.look(), self.times.skew), (step, skew))
            self.assertEqual(self.times.look(), 0.0)

    def test_what_is_shown_follows_the_clock(self) -> None:
        at = self.times.time()
        self.assertEqual(self.times.shown(at), at)
        self.passes(10)
        self.wall += HOUR
        self.times.look()
        self.assertEqual(self.times.shown(at), self.wall - 10)

    def test_a_clock_that_is_slightly_off_is_not_set(self) -> None:
        """What is shown of a moment stays the same."""
        self.wall += 0.9 * LEAST_STEP
        self.assertEqual((self.times.look(), self.times.skew), (0.0, 0.0))
        self.wall += 0.2 * LEAST_STEP
        self.assertNotEqual((self.times.look(), self.times.skew), (0.0, 0.0))

    def test_a_process_that_was_stopped_between_two_readings_reads_again(self) -> None:
        readings = [1000.0, 1050.0]
        self.patch(module, "since_boot", lambda: readings.pop(0) if readings else self.boot)
        self.assertEqual(self.times.look(), 0.0)
        self.assertEqual(readings, [])

    def test_it_goes_on_where_a_journal_ended(self) -> None:
        """However the clock was set before that ended."""
        at = self.times.time()
        self.wall -= HOUR
        self.times.look()
        self.passes(5)
        after = SteadyTimes()
        self.passes(5)
        after.go_on(self.times.skew, at)
        self.assertEqual((after.time(), after.skew, after.look()), (at + 10, -HOUR, 0.0))
        self.assertEqual(after.shown(at), self.wall - 10)

    def test_it_never_goes_back_behind_what_a_journal_has(self) -> None:
        """Whatever the clock was set to meanwhile."""
        self.wall -= 50 * 365 * 86400.0  # of a machine without a battery
        times = SteadyTimes()
        times.go_on(0.0, NOW)
        self.assertEqual(times.time(), NOW)
        self.passes(5)
        self.assertLess(times.look(), -HOUR)
        self.assertEqual(times.shown(NOW), self.wall - 5)

    def test_the_real_clocks_agree(self) -> None:
        self.patch(module, "time", time)
        self.patch(module, "since_boot", module._since_boot())
        times = SteadyTimes()
        self.assertLess(abs(times.time() - time.time()), LEAST_STEP)
        self.assertLess(abs(times.wall() - time.time()), LEAST_STEP)
        self.assertLess(abs(times.monotonic() - time.monotonic()), LEAST_STEP)
        self.assertEqual(times.look(), 0.0)

    def test_where_no_clock_counts_suspension_the_monotonic_one_does(self) -> None:
        self.assertEqual(module._since_boot()(), self.boot)
