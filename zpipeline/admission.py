"""How many jobs may be unsettled. Pure."""

from __future__ import annotations

from zpipeline.errors import Full


class Admission:
    """Counts the unsettled jobs, and those that are being written down.

    :param most: how many there may be.
    :param most_bytes: how many bytes their bodies may have together; None for no bound.
    :ivar jobs: how many there are.
    :ivar bytes: how many bytes their bodies have together.
    """

    def __init__(self, most: int, most_bytes: int | None) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.jobs = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        """Whether one more job would be one too many."""
        return self.jobs >= self._most or (self._most_bytes is not None and self.bytes >= self._most_bytes)

    def admit(self, jobs: int, size: int) -> None:
        """Take so many jobs, with bodies of so many bytes: all of them or none.

        :raises Full: they would be too many.
        """
        if self.jobs + jobs > self._most:
            raise Full(f"{self.jobs} jobs are unsettled, and {self._most} may be: try again later")
        if self._most_bytes is not None and self.bytes + size > self._most_bytes:
            raise Full(f"unsettled jobs hold {self.bytes} bytes, and may hold {self._most_bytes}: try again later")
        self.add(jobs, size)

    def add(self, jobs: int, size: int) -> None:
        """These are there, whatever the bound."""
        self.jobs += jobs
        self.bytes += size

    def remove(self, jobs: int, size: int) -> None:
        """So many are settled, or were not accepted after all."""
        self.jobs -= jobs
        self.bytes -= size
