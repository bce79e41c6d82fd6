"""An unsettled job, and a ready worker that may hold it, as the ventilator keeps them."""

from __future__ import annotations

from enum import Enum

from zpipeline.window import Window


class Cause(Enum):
    """Why a job that was handed out is to be handed out again."""

    LOST = "lost"  #: the session that it was in flight in
    RETURNED = "returned"  #: by its worker, which had not begun it
    RETRY = "retry"  #: its attempt failed, or it was a dead letter


class Entry:
    """One unsettled job, or one that has just been settled.

    :ivar headers: as they travel, see `zpipeline.job.encode_headers`.
    :ivar accepted_at: in seconds since the epoch, as all times here.
    :ivar attempt: which attempt it is at; 1 for the first.
    :ivar strikes: how many worker processes have died while it was there alone.
    :ivar due: when its next attempt may be made, while it waits for that; None otherwise.
    :ivar error: why its last attempt failed, or why it is dead; None where nothing has failed, and when it is done.
    :ivar cause: why it was to be handed out again, the last time; not set before that.
    :ivar ready_at: since when it could be handed out, while it waits to be handed out again: since it was accepted, or
        since its last retry was due; not set before that.
    :ivar holder: the session that it is in flight in; None while it waits.
    :ivar settled_at: when it was settled; None before.
    :ivar is_dead: whether it was settled without having been done.
    """

    __slots__ = (
        "accepted_at",
        "attempt",
        "body",
        "cause",
        "due",
        "error",
        "headers",
        "holder",
        "is_dead",
        "ready_at",
        "sequence",
        "settled_at",
        "strikes",
    )

    # Not set by __init__: few jobs are handed out again, and all of them would pay for it.
    cause: Cause
    ready_at: float

    def __init__(
        self,
        sequence: int,
        body: bytes,
        headers: bytes,
        accepted_at: float,
        attempt: int = 1,
        strikes: int = 0,
        due: float | None = None,
        error: str | None = None,
    ) -> None:
        self.sequence = sequence
        self.body = body
        self.headers = headers
        self.accepted_at = accepted_at
        self.attempt = attempt
        self.strikes = strikes
        self.due = due
        self.error = error
        self.holder: Session | None = None
        self.settled_at: float | None = None
        self.is_dead = False

    def comes_back(self, cause: Cause) -> None:
        """It is to be handed out again, as soon as there is room."""
        self.cause = cause
        if not hasattr(self, "ready_at"):
            self.ready_at = self.accepted_at

    def __lt__(self, other: Entry) -> bool:
        return self.sequence < other.sequence


class Session:
    """One ready worker.

    :ivar since: when its process was first ready.
    :ivar in_flight: its jobs, by sequence number.
    :ivar bytes: of their bodies together.
    :ivar in_runs: jobs that it was given in runs, and all that the others had been given when it came.
    :ivar leaving: it gets nothing new: it has said BYE.
    :ivar paused: it gets nothing new for now: its socket takes nothing.
    :ivar reserved: it gets suspects only.
    :ivar has_suspects: what is in flight is suspect: it was given a group since it is reserved.
    :ivar reports: messages of DONE, FAILED and RETURNED that have come in this session.
    :ivar given: how many jobs it was given in this session.
    :ivar missed: in how many STATEs running it had fewer jobs than are in flight.
    :ivar progress_at: when it last reported something of what is in flight, or was given something, having nothing.
    """

    __slots__ = (
        "bytes",
        "given",
        "has_suspects",
        "in_flight",
        "in_runs",
        "leaving",
        "missed",
        "number",
        "paused",
        "progress_at",
        "reports",
        "reserved",
        "since",
        "window",
    )

    def __init__(self, number: int, window: Window, since: float) -> None:
        self.number = number
        self.window = window
        self.since = since
        self.in_flight: dict[int, Entry] = {}
        self.bytes = 0
        self.in_runs = 0
        self.leaving = False
        self.paused = False
        self.reserved = False
        self.has_suspects = False
        self.reports = 0
        self.given = 0
        self.missed = 0
        self.progress_at = since
