"""Text of strangers, for logs and terminals: nothing of it gets there that would not show as a character."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text, with an escape for every character that is not shown as such, line feeds included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """The text, each of its lines printable."""
    return "\n".join(map(printable, text.split("\n")))
