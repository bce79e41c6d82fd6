"""What is done when the system's clock is set: it is said, and the store keeps how far it is ahead now."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline.errors import JournalError
from zpipeline.store import Store
from zpipeline.times import Times

#: A step by less is not worth a line, in seconds.
_LEAST_SAID = 1.0

log = Logger()


class ClockWatch:
    """Compares the system's clock with the time of one pipeline."""

    def __init__(self, times: Times, store: Store) -> None:
        self._times = times
        self._store = store
        self._is_kept = True  # nothing has happened that would have to be
        self._is_asked = False

    def look(self) -> None:
        """See whether the clock was set since the last look."""
        step = self._times.look()
        if abs(step) >= _LEAST_SAID:
            log.warn(
                "the system's clock was set {seconds} seconds {way}: jobs, retries and timeouts go on as before",
                seconds=round(abs(step)),
                way="forward" if step > 0 else "back",
            )
        if step:
            self._is_kept = False
        if not self._is_kept and not self._is_asked:
            self._is_kept = self._is_asked = True
            self._store.keep_skew(self._times.skew).addBoth(self._answered).addErrback(self._not_kept)

    def _answered(self, outcome: Failure | None) -> Failure | None:
        self._is_asked = False
        return outcome

    def _not_kept(self, failure: Failure) -> None:
        failure.trap(JournalError)
        self._is_kept = False  # it is tried again
