"""The metrics as text, made once in each turn of the reactor, however many ask for them in that turn."""

from __future__ import annotations

from typing import Any

from zpipeline.metrics import Exposition, format_of

#: In so many formats at most; in which, clients say, and a format of theirs is nearly whatever they like.
MOST_FORMATS = 4


class Exposed:
    """What was made in this turn.

    :param reactor: IReactorTime.
    """

    def __init__(self, reactor: Any, exposition: Exposition) -> None:
        self._reactor = reactor
        self._exposition = exposition
        self._made: dict[str, tuple[bytes, bytes]] = {}  # by content type

    def text(self, accept: str) -> tuple[bytes, bytes]:
        """See `zpipeline.metrics.Exposition.text`; in a format that is there, if it is too late for another."""
        made = self._made
        _, content_type = format_of(accept)
        if content_type not in made:
            if len(made) >= MOST_FORMATS:
                return next(iter(made.values()))
            if not made:
                self._reactor.callLater(0, made.clear)
            made[content_type] = self._exposition.text(accept)
        return made[content_type]
