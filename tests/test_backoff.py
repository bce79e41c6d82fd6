"""Delays between tries."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from zpipeline.backoff import Backoff


class BackoffTests(SynchronousTestCase):
    """Each delay lies between the half and the whole of what doubles."""

    def test_delays_double_up_to_the_longest(self) -> None:
        backoff = Backoff(0.1, 1.0)
        for whole in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
            delay = backoff.next()
            self.assertTrue(whole / 2 <= delay <= whole, (whole, delay))

    def test_after_a_success_they_begin_anew(self) -> None:
        backoff = Backoff(0.1, 1.0)
        for _ in range(5):
            backoff.next()
        backoff.reset()
        self.assertLessEqual(backoff.next(), 0.1)

    def test_they_are_spread(self) -> None:
        self.assertGreater(len({Backoff(1.0, 1.0).next() for _ in range(20)}), 10)
