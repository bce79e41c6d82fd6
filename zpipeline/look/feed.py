"""What a zpipe-web says each second, read by a thread, which asks again when nothing is to be had."""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic

from attrs import evolve, frozen

from zpipeline.client import WebError
from zpipeline.look.client import Snapshot, Statistics

#: Seconds between two tries.
AGAIN = 1.0


@frozen
class State:
    """What is known.

    :ivar snapshot: the last one; None before the first.
    :ivar trouble: why there is none now, one line; None when there is.
    :ivar at: when the snapshot came, by the monotonic clock.
    """

    snapshot: Snapshot | None
    trouble: str | None
    at: float


class Feed:
    """Snapshots of a zpipe-web, as they come.

    :ivar state: what is known now.
    """

    def __init__(self, web: Statistics) -> None:
        self._web = web
        self._stopped = Event()
        self.state = State(None, f"asking {web.url}", monotonic())

    def start(self) -> None:
        """Begin to read."""
        Thread(target=self._read, name="feed", daemon=True).start()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                for snapshot in self._web.snapshots():
                    self.state = State(snapshot, None, monotonic())
                    if self._stopped.is_set():
                        return
                why = f"{self._web.url} has ended its answer"
            except WebError as error:
                why = str(error)
            self.state = evolve(self.state, trouble=why)
            self._stopped.wait(AGAIN)
