"""``twistd zpipe-web``: the HTTP side, which pushes to the workers."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService

from zpipeline.errors import UsageError
from zpipeline.pipeline import (
    DEFAULT_SINK,
    DEFAULT_WORKERS,
    DRAIN,
    MAX_BODY,
    MAX_PENDING,
    Pipeline,
)
from zpipeline.tap.options import UNTIL_EOF, seconds, whole
from zpipeline.tap.options import Options as CommonOptions
from zpipeline.tap.services import Listener, in_order
from zpipeline.web import make_site

DEFAULT_LISTEN = "tcp:4567:interface=127.0.0.1"


class WebOptions(CommonOptions):
    """What zpipe-web and zpipe have in common."""

    optParameters = [
        ["listen", None, DEFAULT_LISTEN, "Where HTTP is served: a Twisted server endpoint description."],
        ["sink", None, DEFAULT_SINK, "Where workers report to; * is a free port. Workers must reach it."],
        ["max-pending", None, MAX_PENDING, "How many jobs may be unsettled; more get 503.", whole("max-pending")],
        ["max-body", None, MAX_BODY, "The largest body of a job, in bytes; larger ones get 413.", whole("max-body")],
        ["window", None, None, "Jobs in flight at each worker. [default: sizes itself]", whole("window")],
        ["drain", None, DRAIN, "How many seconds stopping waits for jobs to settle.", seconds("drain")],
    ]
    optFlags = [["access-log", None, "Log every request."]]


class Options(WebOptions):
    """The options of zpipe-web."""

    command = "zpipe-web"
    synopsis = "[options]"
    longdesc = (
        "Serves HTTP, and hands each request to one of the workers: POST / (the body is the job), GET / (the query "
        "string is), POST /batch (a job a line), GET /jobs/ID, GET /health/ready."
    )
    optFlags = [
        ["plain", None, "Push to plain ZeroMQ PULL sockets, one frame a job: at most once, nothing acknowledged."],
        UNTIL_EOF,
    ]

    def __init__(self) -> None:
        super().__init__()
        self["workers"] = []

    def opt_worker(self, address: str) -> None:
        """Where a worker listens; may be given many times. [default: tcp://127.0.0.1:4444, 4445 and 4446]"""
        self["workers"].append(address)

    def parseArgs(self) -> None:
        """There are none."""


def make_web(options: Options | WebOptions, reactor: Any, workers: list[str], plain: bool) -> tuple[Pipeline, Listener]:
    """The pipeline and its HTTP side, bound if that can be done now."""
    try:
        pipeline = Pipeline(
            reactor,
            workers,
            sink=options["sink"],
            max_pending=options["max-pending"],
            max_body=options["max-body"],
            window=options["window"],
            drain=options["drain"],
            plain=plain,
        )
        site = make_site(
            pipeline, max_body=options["max-body"], access_log=bool(options["access-log"]), reactor=reactor
        )
        listener = Listener(reactor, options["listen"], site)
    except UsageError as error:
        options.refuse(error)
    options.bind_now(pipeline.bind)
    options.bind_now(listener.bind)
    return pipeline, listener


def makeService(options: Options) -> IService:
    """The service of zpipe-web."""
    from twisted.internet import reactor

    workers = options["workers"] or list(DEFAULT_WORKERS)
    services = make_web(options, reactor, workers, bool(options["plain"]))
    options.heed_eof(reactor)
    return in_order(*services)
