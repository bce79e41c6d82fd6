"""Text of strangers, for logs, terminals and letters: nothing of it gets there that would not show as a character, nor
more than there is room for."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text, with an escape for every character that is not shown as such, line feeds included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """The text, each of its lines printable."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(text: str, most: int) -> str:
    """The text, if it has no more than so many bytes in UTF-8; else its beginning and its end, and how much is between.

    :param most: 200 or more.
    """
    if 4 * len(text) <= most:  # no character has more bytes
        return text
    packed = text.encode("utf-8", "backslashreplace")
    if len(packed) <= most:
        return text
    half = (most - _ROOM) // 2
    start, end = packed[:half].decode("utf-8", "ignore"), packed[-half:].decode("utf-8", "ignore")
    return f"{start}[... {len(packed) - 2 * half:,} bytes are left out here ...]{end}"


#: For what says how much is left out, in bytes.
_ROOM = 80
