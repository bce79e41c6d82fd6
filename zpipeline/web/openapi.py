"""The description of the HTTP interface, GET /openapi.json: the file openapi.json beside this one (OpenAPI 3.1)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from zpipeline._version import __version__

_FILE = Path(__file__).with_name("openapi.json")


@cache
def description() -> bytes:
    """All of it, with this version of zpipeline, as JSON in ASCII."""
    document = json.loads(_FILE.read_text("utf-8"))
    document["info"]["version"] = __version__
    return json.dumps(document).encode("ascii")
