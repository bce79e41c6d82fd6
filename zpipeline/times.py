"""What time it is. It is Python's own `time` that says so, but where a test has another clock."""

from __future__ import annotations

from typing import Protocol


class Times(Protocol):
    """What is asked of the module `time`."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment, by a clock that is never set back."""
