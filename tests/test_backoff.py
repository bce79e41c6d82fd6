"""The delays between tries."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from zpipeline.backoff import Backoff

seconds = st.floats(0.001, 1000)


class BackoffTests(SynchronousTestCase):
    """Each delay is what it would be without jitter, or down to half of it."""

    @settings(deadline=None, database=None)
    @given(seconds, st.floats(1, 1000))
    def test_delays_double_up_to_the_longest(self, first: float, factor: float) -> None:
        longest = first * factor
        backoff = Backoff(first, longest)
        for number in range(20):
            full = min(first * 2**number, longest)
            self.assertTrue(full / 2 <= backoff.next() <= full)

    def test_delays_differ_so_that_those_who_failed_together_do_not_come_back_together(self) -> None:
        delays = [Backoff(1.0, 60.0).next() for _ in range(1000)]
        self.assertLess(min(delays), 0.55)
        self.assertGreater(max(delays), 0.95)

    def test_after_a_success_it_begins_anew(self) -> None:
        backoff = Backoff(1.0, 60.0)
        for _ in range(10):
            backoff.next()
        backoff.reset()
        self.assertLessEqual(backoff.next(), 1.0)
        self.assertTrue(1.0 <= backoff.next() <= 2.0)
