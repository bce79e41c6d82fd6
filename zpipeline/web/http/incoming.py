"""How many bytes the bodies have together that are here, or are announced, and are not done with. Pure."""

from __future__ import annotations


class Incoming:
    """Their sum, and its bound.

    :param most: so many bytes they may have.
    :ivar held: so many they have.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """There are to be so many more: whether they may be. If not, nothing is counted."""
        if self.held + size > self.most:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """So many are done with."""
        self.held -= size
