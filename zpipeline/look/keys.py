"""The keyboard, while a screen is shown that goes on by itself."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from time import sleep

_QUIT = b"qQ"


@contextmanager
def keys() -> Iterator[Keys]:
    """Keys that are not echoed, and come without a return. Ctrl-C stays what it is."""
    if not sys.stdin.isatty():
        yield Keys(None)
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield Keys(keyboard)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


class Keys:
    """What is typed.

    :param keyboard: its file descriptor; None: there is none.
    """

    def __init__(self, keyboard: int | None) -> None:
        self._keyboard = keyboard

    def quits(self, seconds: float) -> bool:
        """Wait for so long, or until a key is typed: whether it was that for leaving."""
        if self._keyboard is None:
            sleep(seconds)
            return False
        if not select([self._keyboard], [], [], seconds)[0]:
            return False
        typed = os.read(self._keyboard, 1024)
        if not typed:  # the terminal is gone
            self._keyboard = None
        return any(key in _QUIT for key in typed)
