"""The Idempotency-Key of a request (IETF draft-ietf-httpapi-idempotency-key-header).

It is a string as structured fields have them (RFC 9651, section 3.3.3): in quotes, with a backslash before a quote or
a backslash. Many clients send it without the quotes: then it is the same key. What would mean something else
in a structured field cannot stand in one without quotes, so that nothing is taken for a key that is more than one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zpipeline.web.problems import Problem

HEADER = b"idempotency-key"

#: Characters of a key.
MAX_KEY = 255

_QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(rb"[!#-+\--:<-\[\]-~]+")  # visible, without quote, comma, semicolon and backslash
_ESCAPED = re.compile(rb'\\(["\\])')

_HOW = f'it is 1 to {MAX_KEY} printable ASCII characters in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f"'


def key_of(values: Sequence[bytes]) -> str | None:
    """The key that is in the header; None when there is no such header.

    :param values: one for each time the header was sent.
    :raises Problem: 400 when there are several, or it is malformed.
    """
    if not values:
        return None
    if len(values) > 1:
        raise Problem(400, "Idempotency-Key was sent more than once: a request has one")
    (value,) = values
    quoted = _QUOTED.fullmatch(value)
    if quoted is None and not _BARE.fullmatch(value):
        raise Problem(400, f"Idempotency-Key is malformed: {_HOW}")
    key = _ESCAPED.sub(rb"\1", quoted[1]) if quoted is not None else value
    if not 1 <= len(key) <= MAX_KEY:
        raise Problem(400, f"Idempotency-Key has {len(key)} characters: {_HOW}")
    return key.decode("ascii")


def refuse_key(values: Sequence[bytes]) -> None:
    """A key is of no use here, and whoever sent it relies on it.

    :raises Problem: 400 when there is one.
    """
    if values:
        raise Problem(400, "Idempotency-Key is taken on POST / only: send this request without it")
