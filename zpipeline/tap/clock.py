"""The reactor of our commands goes by a clock that nobody sets."""

from __future__ import annotations

from typing import Any

from zpipeline.steady import seconds


def go_steadily(reactor: Any) -> None:
    """Have the reactor go by `zpipeline.steady.seconds`, and what waits already be called when it would have been.

    :param reactor: one of Twisted's; the wall clock is what they go by else.
    """
    passed = seconds() - reactor.seconds()
    reactor.seconds = seconds
    for call in reactor.getDelayedCalls():
        call.time += passed
        call.seconds = seconds
