"""Finding the facts that cannot be written, whatever the disk does. Pure."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from zpipeline.store import Facts


@frozen
class SetAside:
    """A fact that cannot be written, and why."""

    fact: Facts
    error: Exception

    @property
    def sequence(self) -> int:
        """The number of its job."""
        (sequence,) = self.fact.sequences()
        return sequence


def sift(facts: Facts, attempt: Callable[[Facts], Exception | None]) -> tuple[Facts, list[SetAside]]:
    """Those that can be written, and those that cannot: by halves, so that few attempts find one among many.

    :param attempt: write these, and undo it: why that fails, if it does.
    """
    error = attempt(facts) if facts else None
    if error is None:
        return facts, []
    singles = facts.singles()
    if len(singles) == 1:
        return Facts(), [SetAside(facts, error)]
    middle = len(singles) // 2
    good, bad = Facts(), []
    for half in (singles[:middle], singles[middle:]):
        kept, aside = sift(Facts.together(half), attempt)
        good.add(kept)
        bad += aside
    return good, bad
