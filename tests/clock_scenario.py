"""A wall clock that is set while a reactor goes: ``python -m tests.clock_scenario REACTOR commands|embedded``.

Prints nothing and exits with 0 when all was called when it was due; else what was not. ``commands``: the reactor itself
goes steadily, as in our commands; ``embedded``: it goes by the wall clock, and ours goes by a proxy.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.python import runtime

_ahead = 0.0


def wall() -> float:
    """The wall clock of this process, for Twisted as well."""
    return time.time() + _ahead


runtime.seconds = wall  # before a reactor takes it

from twisted.application.reactors import installReactor  # noqa: E402
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults  # noqa: E402
from twisted.internet.task import LoopingCall, deferLater  # noqa: E402

from zpipeline.steady import TICK, steady  # noqa: E402
from zpipeline.tap.clock import go_steadily  # noqa: E402

HOUR = 3600.0
LATE = TICK + 1.0


def called(clock: Any, delay: float) -> Deferred[None]:
    """Fires if it is called when it is due."""
    at = time.monotonic()

    def look() -> None:
        passed = time.monotonic() - at
        assert delay - 0.001 <= passed < delay + LATE, f"{passed:.3f} seconds after, not {delay}"

    return deferLater(clock, delay, look)


async def main(clock: Any, before: Deferred[None]) -> None:
    """Set the clock in every way while something waits."""
    global _ahead
    ticks = LoopingCall(lambda: None)
    ticks.clock = clock
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    ticks.f = tick
    ticks.start(0.2)
    began = time.monotonic()
    waiting = [before]
    for ahead in (HOUR, -HOUR, -2 * HOUR, 0.0):
        waiting += [called(clock, 0.5), called(clock, 0.0), called(clock, 1.0)]
        _ahead = ahead
        await called(clock, 0.6)
    await gatherResults(waiting)
    expected = (time.monotonic() - began) / 0.2
    assert 0.5 * expected < count < expected + 2, f"{count} ticks, not about {expected:.0f}"
    ticks.stop()


if __name__ == "__main__":
    installReactor(sys.argv[1])
    from twisted.internet import reactor

    assert reactor.seconds() == wall() or abs(reactor.seconds() - wall()) < 1
    early: Deferred[None] | None = None
    if sys.argv[2] == "commands":
        early = called(reactor, 0.3)  # it waits already
        go_steadily(reactor)
    clock = steady(reactor)
    assert (clock is reactor) is (sys.argv[2] == "commands")
    outcome: list[object] = []
    run = ensureDeferred(main(clock, early or called(clock, 0.3)))
    run.addBoth(outcome.append).addBoth(lambda _: reactor.callFromThread(reactor.stop))
    reactor.run()
    if outcome != [None]:
        sys.exit(str(outcome))
