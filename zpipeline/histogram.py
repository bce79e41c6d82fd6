"""Times, and other sizes, as counts between fixed bounds. Pure.

A histogram takes a batch at a time: if it is not all between the same two bounds, it is sorted, with one look for
each bound and none for each value. So a job costs next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import add, sub

from attrs import Factory, define, field

#: In seconds, for all times here. docs/protocol.rst names them too (STATE).
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: In jobs.
JOBS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)


@define
class Histogram:
    """How many values there were up to each bound and above the one before; the last count is of those above all.

    :ivar counts: one more than there are bounds.
    :ivar sum: of all values.
    """

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default=Factory(lambda self: [0] * (len(self.bounds) + 1), takes_self=True))
    sum: float = 0.0

    @property
    def total(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Of all values; None when there are none."""
        total = self.total
        return self.sum / total if total else None

    def observe(self, values: Sequence[float]) -> None:
        """Count these. A time below 0, by clocks that differ, is 0."""
        if not values:
            return
        least, most = min(values), max(values)
        if least < 0:
            values = [max(0.0, value) for value in values]
        self.sum += sum(values)
        place = bisect_left(self.bounds, most)
        if place == 0 or self.bounds[place - 1] < least:  # all between the same two, as those of one batch mostly are
            self.counts[place] += len(values)
            return
        ordered = sorted(values)
        counted = 0
        for place, bound in enumerate(self.bounds):
            if counted == len(ordered):
                break
            up_to = bisect_right(ordered, bound, counted)
            self.counts[place] += up_to - counted
            counted = up_to
        self.counts[-1] += len(ordered) - counted

    def add(self, other: Histogram) -> None:
        """Count what another has counted, too."""
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum

    def since(self, before: Histogram) -> Histogram:
        """What was counted after `before`, an earlier state of this one.

        :raises ValueError: it is none: something was counted there that is not here.
        """
        counts = list(map(sub, self.counts, before.counts))
        if min(counts) < 0 or self.sum < before.sum:
            raise ValueError("counts that have become less")
        return Histogram(self.bounds, counts, self.sum - before.sum)

    def quantile(self, share: float) -> float | None:
        """The value that this share (0 to 1) of all are not above, as if they lay evenly between two bounds.

        What is above all bounds counts as the highest of them, as in Prometheus's ``histogram_quantile``.

        :returns: None when there are no values.
        """
        total = self.total
        if not total:
            return None
        rank = share * total
        below = 0
        lower = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * (rank - below) / count
            below += count
            lower = bound
        return lower


@define
class Timings:
    """What workers measure, in seconds.

    :ivar start: from a job's acceptance to the start of its first attempt.
    :ivar run: from the start of an attempt to its end.
    """

    start: Histogram = field(factory=Histogram)
    run: Histogram = field(factory=Histogram)

    def add(self, other: Timings) -> None:
        """Count what another has counted, too."""
        self.start.add(other.start)
        self.run.add(other.run)

    def since(self, before: Timings) -> Timings:
        """What was counted after `before`. See `Histogram.since`."""
        return Timings(self.start.since(before.start), self.run.since(before.run))
