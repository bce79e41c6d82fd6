"""``/metrics`` of a process that serves nothing else over HTTP."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Site

from zpipeline.metrics import Exposition


class _Metrics(Resource):
    isLeaf = True

    def __init__(self, exposition: Exposition) -> None:
        super().__init__()
        self._exposition = exposition

    def render_GET(self, request: Any) -> bytes:
        text, content_type = self._exposition.text(request.getHeader("accept") or "")
        request.setHeader(b"content-type", content_type)
        return text


class _Site(Site):
    noisy = False

    def log(self, request: Any) -> None:
        """Nothing: it is asked every few seconds."""


def make_metrics_site(exposition: Exposition) -> Site:
    """A site that has ``/metrics`` and nothing else."""
    root = Resource()
    root.putChild(b"metrics", _Metrics(exposition))
    return _Site(root)
