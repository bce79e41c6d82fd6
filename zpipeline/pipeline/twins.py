"""Workers that are reached by two addresses: one is used, and the other is tried in a way that does no harm. Pure.

A worker has one session with a ventilator, that of the highest generation (rule 4 of docs/protocol.rst): a HELLO by a
second address ends the session of the first, whose next HELLO ends that of the second, and so for ever. Which process
an address leads to is known from its READY, when its HELLO has done so once. From then on the two are twins: while one
of them has a session, the other says HELLO in the generation of that session. The same worker ignores it; another that
is there by now answers.
"""

from __future__ import annotations

from collections.abc import Callable

from zpipeline.link import Link


class Twins:
    """Which links lead to which process.

    :param holds: whether the link has a session, or is about to have its next one.
    """

    def __init__(self, holds: Callable[[Link], bool]) -> None:
        self._holds = holds
        self._incarnations: dict[Link, int] = {}
        self._twins: dict[Link, Link] = {}

    def in_place_of(self, link: Link) -> Link | None:
        """The link that is used in place of this one; None where this one is to be used."""
        twin = self._twins.get(link)
        return twin if twin is not None and self._holds(twin) else None

    def ready(self, link: Link, incarnation: int) -> Link | None:
        """That process has answered by this link: the other one by which it is reached already, if there is one."""
        self._incarnations[link] = incarnation
        for other, its in self._incarnations.items():
            if other is not link and its == incarnation and self._holds(other):
                self._twins[link], self._twins[other] = other, link
                return other
        return None
