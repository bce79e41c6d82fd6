"""Counting what became of jobs, from the records of those who ran them. Pure: no files, no clock.

- lost = accepted - run, once nothing moves any more.
- run twice = jobs whose handler began again after it had finished once, wherever that was. One that was begun by a
  worker that died, and run by another, was run once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from attrs import frozen


class Event(NamedTuple):
    """A line of a record: a job begins or ends."""

    begins: bool
    job_id: str
    at: int


@frozen
class Tally:
    """What became of the jobs.

    :ivar accepted: how many were accepted.
    :ivar run: how many of these have run to their end at least once.
    :ivar run_twice: how many were begun again after they had ended once.
    :ivar jobs: how many each worker has run to their end.
    """

    accepted: int
    run: int
    run_twice: int
    jobs: Mapping[str, int]

    @property
    def lost(self) -> int:
        """How many were accepted and have not run."""
        return self.accepted - self.run

    @property
    def shares(self) -> dict[str, float]:
        """The part that each worker had of all that was run, from 0 to 1."""
        total = sum(self.jobs.values())
        return {worker: count / total if total else 0.0 for worker, count in self.jobs.items()}


class Record:
    """One worker's record, read piece by piece.

    :param worker: its name.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self._rest = b""

    def events(self, data: bytes) -> list[Event]:
        """What the next piece of the record says. A line that is not complete waits for the piece after it.

        :raises ValueError: it is no record.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_event(line.decode("ascii")) for line in lines]


class Counter:
    """Counts events, in whatever order they are read: of two workers' records neither comes first.

    :param workers: the names of all that could run anything.
    """

    def __init__(self, workers: Collection[str]) -> None:
        self._jobs = dict.fromkeys(workers, 0)
        self._last_begin: dict[str, int] = {}
        self._first_end: dict[str, int] = {}

    @property
    def run(self) -> int:
        """How many different jobs have ended."""
        return len(self._first_end)

    def add(self, worker: str, events: Collection[Event]) -> None:
        """What happened at one worker."""
        for begins, job_id, at in events:
            if begins:
                self._last_begin[job_id] = max(at, self._last_begin.get(job_id, at))
            else:
                self._first_end[job_id] = min(at, self._first_end.get(job_id, at))
                self._jobs[worker] += 1

    def tally(self, accepted: Collection[str]) -> Tally:
        """The count.

        :param accepted: the id in each answer that accepted a job; were one in two answers, that makes a job lost.
        """
        return Tally(
            accepted=len(accepted),
            run=len(self._first_end.keys() & set(accepted)),
            run_twice=sum(self._last_begin[job_id] > end for job_id, end in self._first_end.items()),
            jobs=dict(self._jobs),
        )


def _event(line: str) -> Event:
    kind, job_id, at = line.split(" ")
    if kind not in ("begin", "end"):
        raise ValueError(f"{line!r} is no line of a record")
    return Event(kind == "begin", job_id, int(at))
