"""Whether a pipeline is ready, and why not."""

from __future__ import annotations

from attrs import frozen

from zpipeline.look.client import Snapshot
from zpipeline.look.figures import count


@frozen
class Verdict:
    """Whether jobs are accepted, and there is a worker that runs them.

    :ivar status: ``ready``, or one word for the first reason why not: ``draining``, ``journal`` or ``full``, as
        ``GET /health/ready`` has them, or ``no-worker``.
    :ivar reasons: why not, each one line; empty when it is ready.
    """

    status: str
    reasons: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def verdict_on(snapshot: Snapshot) -> Verdict:
    """What a snapshot comes to."""
    stats = snapshot.stats
    found = []
    if stats["draining"]:
        found.append(("draining", "it is being stopped: nothing is accepted"))
    elif stats["trouble"] is not None:
        found.append(("journal", f"nothing is accepted: {stats['trouble']}"))
    elif not stats["accepting"]:
        found.append(("full", "nothing is accepted: too many jobs are not settled (--max-pending)"))
    if not stats["ready_workers"]:
        found.append(("no-worker", f"no worker is ready, of {count(len(snapshot.workers))}: what is accepted waits"))
    return Verdict(found[0][0] if found else "ready", tuple(reason for _, reason in found))
