"""The window sizes itself: a ventilator with jobs without end, the way, and a worker, simulated."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline.window import MAX_RUN, MAX_WINDOW, PERIOD, SAMPLES, Window

LAN = 0.0003  # seconds, there and back
WAN = 0.1
SLICE = 0.005
PATIENCE = 0.1

Service = Callable[[int], float]


class Simulation:
    """One ventilator and one worker, which reports and gives back as `zpipeline.runner` does.

    :param service: how many seconds the job of that number takes. With a concurrency of 1 the handler is plain.
    """

    def __init__(self, service: Service, *, concurrency: int = 1, round_trip: float = LAN, fixed: int | None = None):
        self.window = Window(concurrency, fixed)
        self.service = service
        self.concurrency = concurrency
        self.round_trip = round_trip
        self.now = 0.0
        self.settled = 0
        self.returned = 0
        self.sizes: list[tuple[float, int]] = []
        self.in_flight: set[int] = set()
        self._numbers = count(1)
        self._again: list[int] = []  # given back, a heap
        self._backlog: deque[tuple[int, float]] = deque()
        self._running = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._at(0.0, self._fill)

    def run(self, seconds: float) -> "Simulation":
        """Let that much time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, call, arguments = heappop(self._events)
            call(*arguments)
        self.now = end
        return self

    def largest(self, since: float = 0.0) -> int:
        """The largest window from then on."""
        return max(size for at, size in self.sizes if at >= since)

    def rate(self, seconds: float) -> float:
        """Settlements per second, in the seconds to come."""
        before = self.settled
        return (self.run(seconds).settled - before) / seconds

    def _at(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        heappush(self._events, (self.now + delay, next(self._order), call, arguments))

    # The ventilator

    def _fill(self) -> None:
        size = self.window.size(self.now)
        self.sizes.append((self.now, size))
        batch = []
        while len(self.in_flight) < size:
            number = heappop(self._again) if self._again else next(self._numbers)
            self.window.sent(number, len(self.in_flight), self.now)
            self.in_flight.add(number)
            batch.append(number)
        if batch:
            self._at(self.round_trip / 2, self._arrive, batch)

    def _report(self, numbers: list[int]) -> None:
        self.in_flight.difference_update(numbers)
        self.settled += len(numbers)
        self.window.settled(len(numbers), self.in_flight, self.now)
        self._fill()

    def _take_back(self, numbers: list[int]) -> None:
        self.in_flight.difference_update(numbers)
        self.returned += len(numbers)
        self.window.given_back()
        for number in numbers:
            heappush(self._again, number)
        self._fill()

    # The worker

    def _arrive(self, batch: list[int]) -> None:
        self._backlog.extend((number, self.now) for number in batch)
        self._at(PATIENCE, self._begin)
        self._begin()

    def _begin(self) -> None:
        if self._running < self.concurrency or self.concurrency > 1:
            self._give_back()
        while self._backlog and self._running < self.concurrency:
            ends, numbers = 0.0, []
            while self._backlog and (not numbers or (self.concurrency == 1 and ends <= SLICE)):
                numbers.append(self._backlog.popleft()[0])
                ends += self.service(numbers[-1])
            self._running += 1
            self._at(ends, self._end, numbers)

    def _end(self, numbers: list[int]) -> None:
        self._running -= 1
        self._at(self.round_trip / 2, self._report, numbers)
        self._begin()

    def _give_back(self) -> None:
        keep = max(0, self.concurrency + 1 - self._running)
        if len(self._backlog) > keep and self.now >= self._backlog[0][1] + PATIENCE:
            beyond = [self._backlog.pop()[0] for _ in range(len(self._backlog) - keep)]
            self._at(self.round_trip / 2, self._take_back, beyond)


def constant(seconds: float) -> Service:
    return lambda number: seconds


def saturated(seconds: float, concurrency: int = 1, **options: Any) -> Simulation:
    """Jobs of that length, for long enough that the window is what it will be."""
    return Simulation(constant(seconds), concurrency=concurrency, **options).run(max(1.0, 20 * seconds))


class SizeTests(unittest.SynchronousTestCase):
    """How large the window becomes."""

    def test_it_grows_to_thousands_at_once_where_jobs_take_no_time(self) -> None:
        simulation = Simulation(constant(0.00001)).run(0.2)
        self.assertGreater(simulation.largest(), 3000)
        self.assertGreater(simulation.rate(0.3), 95_000)

    def test_it_at_most_doubles_each_round_trip(self) -> None:
        simulation = Simulation(constant(0.00001), round_trip=0.01).run(1.0)
        last = simulation.sizes[0]
        for at, size in simulation.sizes:
            if size > last[1]:
                self.assertLessEqual(size, 2 * last[1])
                if last[0]:
                    self.assertGreater(at - last[0], 0.01)
                last = at, size
            elif size < last[1]:
                last = last[0], size
        self.assertGreater(simulation.largest(), 1000)

    def test_it_holds_some_50_ms_of_work(self) -> None:
        for seconds, least, most in ((0.0001, 480, 550), (0.001, 45, 60), (0.005, 9, 13), (0.02, 2, 4)):
            simulation = saturated(seconds)
            self.assertTrue(least <= simulation.largest(since=0.5) <= most, (seconds, simulation.largest(since=0.5)))
            self.assertGreater(simulation.rate(5.0) * seconds, 0.98)

    def test_a_handler_that_takes_a_second_gets_the_next_job_and_no_more(self) -> None:
        simulation = saturated(1.0)
        self.assertEqual(simulation.largest(), 2)
        self.assertEqual(simulation.returned, 0)

    def test_handlers_that_take_a_second_side_by_side_get_little_more_than_they_run(self) -> None:
        simulation = saturated(1.0, concurrency=10)
        self.assertLessEqual(simulation.largest(), 13)
        self.assertGreaterEqual(simulation.rate(10.0), 9.5)

    def test_a_quick_job_beside_slow_ones_does_not_make_it_large(self) -> None:
        simulation = Simulation(lambda number: 0.0 if number % 3 else 2.0).run(120.0)
        self.assertLessEqual(simulation.largest(), 4)
        self.assertGreaterEqual(simulation.settled, 175)

    def test_a_fixed_window_never_changes(self) -> None:
        simulation = Simulation(lambda number: 0.0001 if number < 500 else 0.5, fixed=40).run(5.0)
        self.assertEqual({size for _, size in simulation.sizes}, {40})

    def test_it_holds_50_000_jobs_at_most_whatever_a_worker_says_it_runs(self) -> None:
        window = Window(2**32 - 1)
        self.assertEqual(window.size(0.0), MAX_WINDOW)
        window = Window(1)
        for step in range(40):
            now = step / 1000
            window.sent(step, 0, now)
            window.settled(10_000, (), now)
        self.assertEqual(window.size(now), MAX_WINDOW)

    def test_one_lucky_burst_doubles_it_and_no_more(self) -> None:
        window = Window(1)
        window.sent(1, 0, 0.0)
        window.settled(1000, (), 0.001)
        self.assertEqual(window.size(0.001), 4)

    def test_a_worker_that_comes_to_run_more_gets_more_at_once(self) -> None:
        window = Window(1)
        self.assertEqual(window.size(0.0), 2)
        window.concurrency = 10
        self.assertEqual(window.size(0.0), 11)

    def test_a_clock_that_stands_still_does_no_harm(self) -> None:
        window = Window(1)
        window.sent(1, 0, 5.0)
        window.settled(1, (), 5.0)
        self.assertEqual(window.size(5.0), 2)


class RunTests(unittest.SynchronousTestCase):
    """How many jobs go to a worker in its turn."""

    def test_it_is_one_until_the_worker_says_how_long_a_job_takes(self) -> None:
        self.assertEqual(Window(1).run, 1)

    def test_it_is_what_the_worker_does_in_a_millisecond(self) -> None:
        for concurrency, seconds, run in ((1, 0.0001, 10), (1, 1.0, 1), (1, 0.0006, 1), (50, 0.01, 5)):
            window = Window(concurrency)
            window.took(seconds)
            self.assertEqual(window.run, run)

    def test_it_is_no_more_than_250_however_short_they_are(self) -> None:
        for seconds in (0.0, 1e-9, 0.000003):
            window = Window(1)
            window.took(seconds)
            self.assertEqual(window.run, MAX_RUN)
        self.assertEqual(MAX_RUN, 250)

    def test_it_is_one_again_when_the_worker_gives_back(self) -> None:
        window = Window(1)
        window.took(0.0001)
        window.given_back()
        self.assertEqual((window.run, window.size(0.0)), (1, 2))

    def test_it_is_one_where_the_window_is_fixed(self) -> None:
        window = Window(1, fixed=40)
        window.took(0.0001)
        self.assertEqual(window.run, 1)


class SlowerTests(unittest.SynchronousTestCase):
    """The worker, or the way to it, becomes slower."""

    def burst(self) -> Simulation:
        simulation = saturated(0.00005)
        self.assertGreater(simulation.window.size(simulation.now), 900)
        return simulation

    def test_a_worker_that_turns_slow_has_a_small_window_again_within_a_second(self) -> None:
        simulation = self.burst()
        simulation.service = constant(0.9)
        simulation.run(1.0)
        self.assertEqual(simulation.window.size(simulation.now), 2)
        self.assertLessEqual(len(simulation.in_flight), 2)
        self.assertGreater(simulation.returned, 800)

    def test_a_worker_of_which_nothing_is_heard_has_a_small_window_within_a_second(self) -> None:
        simulation = self.burst()
        simulation.service = constant(1000.0)
        simulation.run(1.0)
        self.assertEqual(simulation.window.size(simulation.now), 2)

    def test_a_worker_that_gives_back_has_a_small_window_at_once(self) -> None:
        simulation = self.burst()
        simulation.window.given_back()
        self.assertEqual(simulation.window.size(simulation.now), 2)

    def test_a_far_worker_that_turns_slow_has_a_small_window_within_a_second(self) -> None:
        simulation = saturated(0.001, round_trip=WAN).run(5.0)
        simulation.service = constant(1000.0)
        simulation.run(1.0)
        self.assertEqual(simulation.window.size(simulation.now), 2)

    def test_the_queue_that_it_makes_is_not_taken_for_a_long_way(self) -> None:
        simulation = Simulation(constant(0.0002)).run(60.0)
        self.assertLess(simulation.window.round_trip, 0.005)
        self.assertLess(simulation.largest(), 2 * PERIOD / 0.0002)
        self.assertEqual(simulation.returned, 0)

    def test_a_long_way_is_filled(self) -> None:
        for seconds, concurrency in ((0.0001, 1), (0.001, 10), (0.005, 1)):
            simulation = saturated(seconds, concurrency, round_trip=WAN).run(5.0)
            self.assertGreater(simulation.rate(2.0) * seconds / concurrency, 0.9, (seconds, concurrency))
            self.assertEqual(simulation.returned, 0)

    def test_a_way_that_becomes_long_is_not_left_at_two_jobs_a_round_trip(self) -> None:
        for concurrency, rate in ((1, 10_000), (10, 5_000)):
            simulation = Simulation(constant(concurrency / 10_000), concurrency=concurrency).run(1.0)
            simulation.round_trip = WAN
            self.assertGreater(simulation.run(5.0).rate(5.0), 0.3 * rate)

    def test_a_way_that_became_long_while_the_worker_was_slow_is_found_out(self) -> None:
        simulation = saturated(0.02)
        self.assertLess(simulation.window.round_trip, 0.025)
        simulation.round_trip = WAN
        simulation.run(20.0)
        self.assertGreater(simulation.window.round_trip, WAN)
        self.assertGreater(simulation.rate(5.0) * 0.02, 0.8)

    def test_two_jobs_that_take_turns_on_a_long_way_do_not_hide_it(self) -> None:
        # One is sent whenever the other is half-way, so that each finds one before it: a queue, to all appearance.
        window = Window(1)
        window.sent(0, 0, 0.0)
        window.settled(1, (), 0.0003)  # so short is the way at first
        window.sent(1, 0, 0.0003)
        window.settled(1, (), 0.0006)
        sent = [(2, 1.0), (3, 1.0 + WAN / 2)]
        number, sizes = 4, []
        window.sent(2, 0, 1.0)
        for _ in range(400):
            _, at = sent.pop(0)
            now = at + WAN
            window.settled(1, [other for other, _ in sent], now)
            size = window.size(now)
            sizes.append(size)
            while len(sent) < size:
                window.sent(number, len(sent), now)
                sent.append((number, now))
                number += 1
        self.assertGreater(max(sizes), 20)
        self.assertGreater(window.round_trip, 0.9 * WAN)

    def test_the_round_trip_is_that_of_the_last_probes(self) -> None:
        window = Window(1)
        for step, took in enumerate([0.001, *[0.2] * SAMPLES]):
            self.assertEqual(window.round_trip, 0.001 if step else 0.0)
            window.sent(step, 0, float(step))
            window.settled(1, (), step + took)
        self.assertAlmostEqual(window.round_trip, 0.2)


class AnyWorkerTests(unittest.SynchronousTestCase):
    """What holds for any worker."""

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        st.lists(st.sampled_from([0.0, 0.0001, 0.001, 0.03, 0.5]), min_size=1, max_size=5),
        st.integers(1, 5),
        st.sampled_from([LAN, 0.02, WAN]),
    )
    def test_it_never_stops_and_is_never_too_small(
        self, seconds: list[float], concurrency: int, round_trip: float
    ) -> None:
        # In a simulation jobs must not take no time at all, else there is no end to them.
        def service(number: int) -> float:
            return max(seconds[number % len(seconds)], 0.0001)

        simulation = Simulation(service, concurrency=concurrency, round_trip=round_trip).run(1.0)
        sizes = {size for _, size in simulation.sizes}
        self.assertGreaterEqual(min(sizes), concurrency)
        self.assertLessEqual(max(sizes), MAX_WINDOW)
        before = simulation.settled
        simulation.run(3 * (max(*seconds, 0.0001) + SLICE + round_trip))
        self.assertGreater(simulation.settled, before)
