"""What a handler may raise or return that does not let itself be looked at, said or written."""

from __future__ import annotations

from typing import Any

from zpipeline import Reject, RetryLater


class SaysNothing(Exception):
    """Whoever asks it for its text fails."""

    def __str__(self) -> str:
        raise KeyError("text")

    __repr__ = __str__


class EndsAll(Exception):
    """Whoever asks it for its text is to end."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class HasNoClass(Exception):
    """Whoever asks what it is fails."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("what it is")


class Busy(RetryLater):
    """It does not call the __init__ of its base."""

    def __init__(self, host: str) -> None:
        self.host = host


class Later(RetryLater):
    """It changes its mind about when."""

    def __init__(self, seconds: Any) -> None:
        super().__init__(1.0, "later")
        self.seconds = seconds


class NoPhoto(Reject):
    """It does not call the __init__ of its base."""

    def __init__(self, number: int) -> None:
        self.number = number


class Text(str):
    """It is written otherwise than text is."""

    def encode(self, *_: Any, **__: Any) -> bytes:
        raise OSError

    __str__ = __len__ = encode  # type: ignore[assignment]


class Members(dict[str, Any]):
    """It has members that nobody gets."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(a=1)
        self.error = error

    def items(self) -> Any:
        raise self.error


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value
