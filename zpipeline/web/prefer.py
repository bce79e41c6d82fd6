"""The Prefer header of a request (RFC 7240), of which one preference is known here: ``wait``.

Preferences that are unknown or malformed are as if they had not been sent, as the RFC says.
"""

from __future__ import annotations

import re

#: The longest that a request is held, in seconds, whatever it prefers.
MAX_WAIT = 600

# A quote that does not end reaches to the end of all, so that it is gone through once.
_PREFERENCE = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+', re.DOTALL)
_WAIT = re.compile(rb'[ \t]*wait(?:[ \t]*=[ \t]*(?:([0-9]+)|"([0-9]+)"))?[ \t]*(?:;.*)?', re.IGNORECASE)


def wait_of(value: bytes) -> int:
    """For how many seconds the client waits for the outcome; 0 when it does not.

    :param value: of the header; of several, joined by commas.
    """
    for preference in _PREFERENCE.findall(value):
        match = _WAIT.fullmatch(preference)
        if match is not None:  # of several, the first counts
            digits = (match[1] or match[2] or b"").lstrip(b"0")
            return min(MAX_WAIT, int(digits or b"0")) if len(digits) < 9 else MAX_WAIT
    return 0
