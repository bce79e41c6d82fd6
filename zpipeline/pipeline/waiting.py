"""Who waits for jobs to be settled.

Nobody is told before the store has it: what somebody was told stays so, whatever happens to the process. So when a job
is settled that is waited for, the store is asked what has come of it, which it answers once that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attrs import define, field
from twisted.internet.defer import Deferred

from zpipeline.errors import JournalError
from zpipeline.store import Outcome


@define(eq=False)
class _Awaited:
    """A job that is waited for.

    :ivar since: when the first of those who wait began to, in seconds since the epoch.
    """

    since: float
    waiting: list[Deferred[Outcome | None]] = field(factory=list)


class Waiting:
    """All who wait for jobs of one ventilator. It is false when there is nobody.

    :param ask: what has come of a job, as `zpipeline.store.Store.outcome`.
    """

    def __init__(self, ask: Callable[[int, float], Deferred[Outcome | None]]) -> None:
        self._ask = ask
        self._awaited: dict[int, _Awaited] = {}

    def __bool__(self) -> bool:
        return bool(self._awaited)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the jobs that are waited for."""
        return iter(list(self._awaited))

    def wait(self, sequence: int, since: float) -> Deferred[Outcome | None]:
        """Fires with what has come of a job, when it is settled; with None when that is not known any longer, or when
        `end` comes first.

        Whoever does not wait any longer cancels it.

        :param since: now, in seconds since the epoch.
        """
        awaited = self._awaited.setdefault(sequence, _Awaited(since))

        def forget(waiter: Deferred[Outcome | None]) -> None:
            awaited.waiting.remove(waiter)
            if not awaited.waiting and self._awaited.get(sequence) is awaited:
                del self._awaited[sequence]

        waiter: Deferred[Outcome | None] = Deferred(forget)
        awaited.waiting.append(waiter)
        return waiter

    def settled(self, sequences: Iterable[int]) -> None:
        """These jobs are settled, or were, it may be."""
        for sequence in sequences:
            awaited = self._awaited.get(sequence)
            if awaited is not None:
                answer = self._ask(sequence, awaited.since)
                answer.addCallbacks(self._tell, lambda failure: failure.trap(JournalError), callbackArgs=(sequence,))

    def _tell(self, outcome: Outcome | None, sequence: int) -> None:
        if outcome is not None and outcome.status.settled_at is None:
            return  # that is not written, for some trouble: there is another look when it is over
        awaited = self._awaited.pop(sequence, None)
        if awaited is not None:
            _fire(awaited, outcome)

    def end(self) -> bool:
        """Nothing more will be settled: whether anybody has waited."""
        awaited, self._awaited = list(self._awaited.values()), {}
        for each in awaited:
            _fire(each, None)
        return bool(awaited)


def _fire(awaited: _Awaited, outcome: Outcome | None) -> None:
    waiting, awaited.waiting = awaited.waiting, []
    for waiter in waiting:
        waiter.callback(outcome)
