"""Jobs as messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from zpipeline import protocol
from zpipeline.entry import Entry


def to_messages(session: int, entries: list[Entry], skew: float = 0.0) -> Iterable[protocol.Frames]:
    """JOBS of these, in as many messages as it takes.

    :param skew: how far the clocks of the workers are ahead of the entries' times, in seconds.
    """
    for batch in _batches(entries):
        yield protocol.encode_jobs(
            session,
            [entry.sequence for entry in batch],
            [entry.attempt for entry in batch],
            [entry.accepted_at + skew for entry in batch] if skew else [entry.accepted_at for entry in batch],
            [entry.headers for entry in batch],
            [entry.body for entry in batch],
        )


def _batches(entries: list[Entry]) -> Iterable[list[Entry]]:
    """Cut what goes to one worker into what one message holds."""
    size = sum([len(entry.body) for entry in entries])
    if len(entries) <= protocol.MAX_JOBS_IN_MESSAGE and size <= protocol.MAX_BYTES_IN_MESSAGE:
        yield entries
        return
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.body)
        if batch and (len(batch) == protocol.MAX_JOBS_IN_MESSAGE or size > protocol.MAX_BYTES_IN_MESSAGE):
            yield batch
            batch, size = [], len(entry.body)
        batch.append(entry)
    yield batch
