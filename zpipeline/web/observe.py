"""What is seen of a pipeline: as JSON, and as server-sent events (the HTML standard, section 9.2).

All readers of events get the same snapshot, made once a second. One that does not read gets fewer of them: while what
was sent to it waits to be written, it gets nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from attrs import asdict

from zpipeline.stats import Stats, WorkerStatus
from zpipeline.web.answers import Sink, Stream
from zpipeline.web.problems import Problem

#: How many may read events at once.
MAX_READERS = 100

#: How long a reader is to wait before it connects again, in milliseconds.
_RETRY_MS = 2000

#: How long one that is refused is to wait, in seconds.
_RETRY_AFTER_READERS = 5

_EVENTS = b"text/event-stream"

#: An answer that goes on is not to be kept by caches, nor held back by a proxy (nginx) until there is more of it.
_HEADERS = {b"Cache-Control": b"no-store", b"X-Accel-Buffering": b"no"}


class Pipeline(Protocol):
    """What is asked of `zpipeline.pipeline.Pipeline`."""

    @property
    def ended(self) -> bool: ...

    def stats(self) -> Stats: ...

    def workers(self) -> list[WorkerStatus]: ...

    def watch(self, watcher: Callable[[bool], None]) -> Callable[[], None]: ...


def stats_of(pipeline: Pipeline) -> dict[str, object]:
    """What the pipeline does."""
    return asdict(pipeline.stats())


def workers_of(pipeline: Pipeline) -> list[dict[str, object]]:
    """What its workers do."""
    return [asdict(worker) for worker in pipeline.workers()]


class Events:
    """All who read the events of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._readers: dict[Sink, None] = {}
        self._end_watching: Callable[[], None] | None = None

    def open(self) -> Stream:
        """Snapshots, until the reader is gone or the pipeline has ended.

        :raises Problem: 503 when too many read already.
        """
        if len(self._readers) >= MAX_READERS:
            why = f"{MAX_READERS} clients read events already: try again later"
            raise Problem(503, why, {b"Retry-After": b"%d" % _RETRY_AFTER_READERS})
        return Stream(self._begin, _HEADERS, _EVENTS)

    def _begin(self, reader: Sink) -> Callable[[], None]:
        reader.send(b"retry: %d\n\n" % _RETRY_MS + self._snapshot())
        if self._pipeline.ended:
            reader.end()
        else:
            if self._end_watching is None:
                self._end_watching = self._pipeline.watch(self._tick)
            self._readers[reader] = None
        return lambda: self._forget(reader)

    def _forget(self, reader: Sink) -> None:
        self._readers.pop(reader, None)
        if not self._readers and self._end_watching is not None:
            self._end_watching()
            self._end_watching = None

    def _tick(self, is_over: bool) -> None:
        snapshot = self._snapshot()
        for reader in list(self._readers):
            if not reader.is_behind:
                reader.send(snapshot)
        if is_over:
            readers, self._readers = self._readers, {}
            self._end_watching = None
            for reader in readers:
                reader.end()

    def _snapshot(self) -> bytes:
        data = json.dumps({"stats": stats_of(self._pipeline), "workers": workers_of(self._pipeline)})
        return b"event: snapshot\ndata: %b\n\n" % data.encode("ascii")
