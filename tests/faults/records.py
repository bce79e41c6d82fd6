"""What workers have written down, and the count of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from attrs import frozen


@frozen
class Line:
    """A line of a record.

    :ivar at: when it was written, by the monotonic clock.
    :ivar body: of a job that begins; None: the job ends.
    """

    at: float
    job_id: str
    body: str | None


@frozen
class Record:
    """What one worker (all its processes, if it was restarted) has run, in order."""

    lines: list[Line]

    @property
    def begun(self) -> list[str]:
        """Ids of jobs, as they began."""
        return [line.job_id for line in self.lines if line.body is not None]

    @property
    def bodies(self) -> list[str]:
        """Of jobs, as they began."""
        return [line.body for line in self.lines if line.body is not None]

    @property
    def ended(self) -> list[str]:
        """Ids of jobs, as they ended."""
        return [line.job_id for line in self.lines if line.body is None]


@frozen
class Count:
    """Jobs: accepted; run (they ended); run twice (began again after they had ended once); dead; lost (neither)."""

    accepted: int
    run: int
    run_twice: int
    dead: int
    lost: int

    @classmethod
    def all_ran(cls, accepted: int, run_twice: int = 0) -> Count:
        """Nothing is dead or lost."""
        return cls(accepted, accepted, run_twice, 0, 0)


class Reader:
    """Reads a record again and again, each time only what has come since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._lines: list[Line] = []

    def record(self) -> Record:
        """What is there now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                # What comes after the last line end is a line that is being written just now.
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._position += len(whole) + 1
                self._lines += map(_line, whole.decode().split("\n"))
        return Record(self._lines.copy())


def _line(text: str) -> Line:
    at, word, job_id, *body = text.split(" ", 3)
    return Line(float(at), job_id, body[0] if word == "begin" else None)


def in_order(records: Iterable[Record]) -> list[Line]:
    """All lines of these, as they were written."""
    return sorted((line for record in records for line in record.lines), key=lambda line: line.at)


def ran_twice(lines: Iterable[Line]) -> set[str]:
    """Jobs that began again after they had ended once."""
    ended: set[str] = set()
    again: set[str] = set()
    for line in lines:
        if line.body is None:
            ended.add(line.job_id)
        elif line.job_id in ended:
            again.add(line.job_id)
    return again


def count(accepted: Collection[str], lines: Collection[Line], dead: Collection[str]) -> Count:
    """What became of these jobs."""
    ids = set(accepted)
    run = ids & {line.job_id for line in lines if line.body is None}
    return Count(len(ids), len(run), len(ids & ran_twice(lines)), len(ids & set(dead)), len(ids - run - set(dead)))
