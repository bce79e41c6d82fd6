"""The parameters of a query string, for the routes that have some.

They are read strictly: what is misspelt is an error, and never passed over as if it had not been there.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote_to_bytes

from zpipeline.web.problems import Problem


def parameters(query: bytes, known: Collection[str]) -> dict[str, str]:
    """What the query string says, NAME=VALUE, joined by ``&``.

    Names and values have percent escapes, and a plus sign for a space, as forms send them; they are UTF-8.

    :param known: the names that the path takes.
    :raises Problem: 400 when a name is unknown or comes twice, or a value is missing, empty or not UTF-8.
    """
    found: dict[str, str] = {}
    for part in query.split(b"&") if query else ():
        encoded_name, _, encoded_value = part.partition(b"=")
        name = _decode(encoded_name)
        if name not in known:
            raise Problem(400, f"this path takes {' and '.join(known)}, not {name!r}")
        if name in found:
            raise Problem(400, f"{name!r} comes twice")
        value = _decode(encoded_value)
        if not value:
            raise Problem(400, f"{name!r} has no value: give it one, or leave it out")
        found[name] = value
    return found


def whole(values: dict[str, str], name: str, default: int, most: int) -> int:
    """The whole number under this name, from 1 to `most`.

    :raises Problem: 400 when it is anything else.
    """
    text = values.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else 0
    if not 1 <= number <= most:
        raise Problem(400, f"{name!r} is a whole number from 1 to {most}, not {text!r}")
    return number


def _decode(text: bytes) -> str:
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise Problem(400, "the query string is not UTF-8") from None
