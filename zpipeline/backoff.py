"""How long to wait before trying again."""

from __future__ import annotations

from random import uniform


class Backoff:
    """Delays that double, each with jitter down to its half.

    :param first: the first delay, in seconds.
    :param longest: no delay is longer.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._delay = first

    def reset(self) -> None:
        """It worked: begin with the first delay again."""
        self._delay = self._first

    def next(self) -> float:
        """The delay before the next try, in seconds."""
        delay = self._delay
        self._delay = min(2 * delay, self._longest)
        return uniform(delay / 2, delay)
