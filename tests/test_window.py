"""The window sizes itself: a ventilator with jobs without end, the way, and a worker, simulated."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline.window import MAX_WINDOW, PERIOD, SAMPLES, Window

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
