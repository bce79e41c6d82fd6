"""zpipeline: a web application hands each request to one of a pool of workers, with no broker between.

The public names are here. They are imported when they are first used: `Pipeline` and `Worker` bring in txZMQ, which
installs Twisted's default reactor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zpipeline._version import __version__

if TYPE_CHECKING:
    from zpipeline.errors import (
        Draining,
        Full,
        HandlerError,
        JobDead,
        JournalError,
        JournalFull,
        KeyReused,
        KeysFull,
        NoResult,
        NotClosed,
        NotSettled,
        ProtocolError,
        Refused,
        ResultGone,
        TooLarge,
        UnknownJob,
        UsageError,
        ZpipelineError,
    )
    from zpipeline.job import DeadLetter, DeadLetterSummary, Job, JobStatus, Reject, RetryLater
    from zpipeline.pipeline import Pipeline
    from zpipeline.stats import Stats, WorkerStatus
    from zpipeline.worker import Worker

_HOMES = {
    "Pipeline": "pipeline",
    "Worker": "worker",
    "Job": "job",
    "JobStatus": "job",
    "DeadLetter": "job",
    "DeadLetterSummary": "job",
    "Reject": "job",
    "Stats": "stats",
    "WorkerStatus": "stats",
    "RetryLater": "job",
    "ZpipelineError": "errors",
    "UsageError": "errors",
    "HandlerError": "errors",
    "ProtocolError": "errors",
    "Refused": "errors",
    "Full": "errors",
    "Draining": "errors",
    "TooLarge": "errors",
    "KeyReused": "errors",
    "KeysFull": "errors",
    "JournalError": "errors",
    "JournalFull": "errors",
    "NoResult": "errors",
    "UnknownJob": "errors",
    "NotClosed": "errors",
    "NotSettled": "errors",
    "JobDead": "errors",
    "ResultGone": "errors",
}

__all__ = [
    "DeadLetter",
    "DeadLetterSummary",
    "Draining",
    "Full",
    "HandlerError",
    "Job",
    "JobDead",
    "JobStatus",
    "JournalError",
    "JournalFull",
    "KeyReused",
    "KeysFull",
    "NoResult",
    "NotClosed",
    "NotSettled",
    "Pipeline",
    "ProtocolError",
    "Refused",
    "Reject",
    "ResultGone",
    "RetryLater",
    "Stats",
    "TooLarge",
    "UnknownJob",
    "UsageError",
    "Worker",
    "WorkerStatus",
    "ZpipelineError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
