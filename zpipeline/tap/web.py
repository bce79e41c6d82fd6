"""``twistd zpipe-web``: the HTTP side, which pushes to the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import IService

from zpipeline.errors import UsageError
from zpipeline.pipeline import (
    ATTEMPTS,
    BACKOFF,
    DEFAULT_JOURNAL,
    DEFAULT_SINK,
    DEFAULT_WORKERS,
    DRAIN,
    KEEP,
    MAX_BODY,
    MAX_PENDING,
    MAX_PENDING_IN_MEMORY,
    Pipeline,
)
from zpipeline.retries import MAX_ATTEMPTS
from zpipeline.sockets import MAX_FRAME
from zpipeline.tap.clock import go_steadily
from zpipeline.tap.descriptors import most_connections, raise_soft_limit
from zpipeline.tap.eof import leave_at_eof
from zpipeline.tap.notify import Notifier
from zpipeline.tap.options import LOG_JSON, UNTIL_EOF, address, one_of, seconds, seconds_to_seconds, whole
from zpipeline.tap.options import Options as CommonOptions
from zpipeline.tap.services import Listener, in_order
from zpipeline.web import make_site
from zpipeline.web.origins import hosts_of, is_host
from zpipeline.web.site import KEEP_ALIVE, MAX_INCOMING
from zpipeline.window import MAX_WINDOW

DEFAULT_LISTEN = "tcp:4567:interface=127.0.0.1"


class WebOptions(CommonOptions):
    """What zpipe-web and zpipe have in common."""

    optParameters = [
        ["listen", None, DEFAULT_LISTEN, "Where HTTP is served: a Twisted server endpoint description."],
        [
            "sink",
            None,
            DEFAULT_SINK,
            "The address where workers report; * is a free port. Workers must reach it.",
            address("sink", bound=True),
        ],
        [
            "journal",
            None,
            None,
            f"The file where accepted jobs are until they are settled. [default: {DEFAULT_JOURNAL}]",
        ],
        [
            "journal-sync",
            None,
            "full",
            "What accepted jobs outlive: full, a power cut; normal, the end of this process.",
            one_of("journal-sync", "full", "normal"),
        ],
        [
            "max-pending",
            None,
            None,
            f"Unsettled jobs there may be; then 503. [default: {MAX_PENDING}; without journal {MAX_PENDING_IN_MEMORY}]",
            whole("max-pending"),
        ],
        [
            "max-connections",
            None,
            None,
            "HTTP connections there may be; beyond, 503. [default: half of the file descriptors, 10,000 at most]",
            whole("max-connections"),
        ],
        ["max-body", None, MAX_BODY, "How many bytes one job may have; beyond, 413.", whole("max-body", 1, MAX_FRAME)],
        [
            "max-incoming",
            None,
            MAX_INCOMING,
            "How many bytes all bodies may have that are being received at one time; beyond, 503.",
            whole("max-incoming"),
        ],
        [
            "keep-alive",
            None,
            KEEP_ALIVE,
            "For how many seconds an HTTP connection is kept that is idle: longer than a proxy in front keeps it.",
            seconds("keep-alive", more=True),
        ],
        [
            "window",
            None,
            None,
            "Jobs in flight at each worker. [default: sizes itself]",
            whole("window", 1, MAX_WINDOW),
        ],
        [
            "attempts",
            None,
            ATTEMPTS,
            "How often a job is tried whose handler fails.",
            whole("attempts", 1, MAX_ATTEMPTS),
        ],
        [
            "backoff",
            None,
            None,
            "FIRST:MAX, in seconds. The longest delay before the second attempt, which doubles with each; and before "
            "any. [default: {:g}:{:g}]".format(*BACKOFF),
            seconds_to_seconds("backoff"),
        ],
        [
            "timeout",
            None,
            None,
            "For how many seconds an attempt may run; then it has failed. [default: for ever]",
            seconds("timeout", more=True),
        ],
        [
            "keep",
            None,
            KEEP,
            "For how many seconds settled jobs and results can be had, and idempotency keys are kept after that.",
            seconds("keep"),
        ],
        ["drain", None, DRAIN, "For how many seconds stopping waits for jobs to settle.", seconds("drain")],
    ]
    optFlags = [
        ["no-journal", None, "Keep jobs in memory, for as long as this process lives."],
        ["access-log", None, "Log every request."],
        LOG_JSON,
    ]

    def __init__(self) -> None:
        super().__init__()
        self["hosts"] = []

    def postOptions(self) -> None:
        """A journal that is named is one that is used."""
        super().postOptions()
        if self["journal"] is None:
            self["journal"] = DEFAULT_JOURNAL
            return
        for flag in ("no-journal", "plain"):
            if self.get(flag):
                raise UsageError(f"--journal and --{flag} contradict each other: leave one out")

    def opt_host(self, host: str) -> None:
        """A name of this server, for which others than addresses and localhost get 421; may be given many times."""
        if not is_host(host):
            raise UsageError(f"--host {host!r} is not the name of a host, such as jobs.example.org")
        self["hosts"].append(host)


class Options(WebOptions):
    """The options of zpipe-web."""

    command = "zpipe-web"
    longdesc = (
        "Serves HTTP, and hands each request to one of the workers: POST / (the body is the job), GET / (the query "
        "string is), POST /batch (each line is). GET /jobs/ID tells what became of one, GET /jobs/ID/result what its "
        "handler has returned, GET /health/ready whether "
        "jobs are accepted, GET /dead which have failed for good. SIGTERM or SIGINT let it settle what is in flight."
    )
    optFlags = [
        ["plain", None, "Push to plain ZeroMQ PULL sockets, one frame a job: at most once, no journal."],
        UNTIL_EOF,
    ]

    def __init__(self) -> None:
        super().__init__()
        self["workers"] = []

    def opt_worker(self, worker: str) -> None:
        """Where a worker listens; may be given many times. [default: tcp://127.0.0.1:4444, 4445 and 4446]"""
        self["workers"].append(address("worker")(worker))


def make_web(options: Options | WebOptions, reactor: Any, workers: list[str], plain: bool) -> tuple[Pipeline, Listener]:
    """The pipeline and its HTTP side, bound if that can be done now."""
    descriptors = raise_soft_limit(reactor)
    if options["max-connections"] is None:
        options["max-connections"] = most_connections(descriptors)
    elif options["max-connections"] >= descriptors:
        options.refuse(
            f"--max-connections {options['max-connections']}: this process may have {descriptors} file descriptors",
            "choose less, or raise the hard limit: ulimit -Hn, or systemd's LimitNOFILE",
        )
    try:
        pipeline = Pipeline(
            reactor,
            workers,
            journal=None if options["no-journal"] else options["journal"],
            journal_sync=options["journal-sync"],
            sink=options["sink"],
            max_pending=options["max-pending"],
            max_body=options["max-body"],
            window=options["window"],
            attempts=options["attempts"],
            backoff=options["backoff"] or BACKOFF,
            timeout=options["timeout"],
            keep=options["keep"],
            drain=options["drain"],
            plain=plain,
        )
        site = make_site(
            pipeline,
            max_body=options["max-body"],
            max_incoming=options["max-incoming"],
            max_connections=options["max-connections"],
            keep_alive=options["keep-alive"],
            access_log=bool(options["access-log"]),
            hosts=[*options["hosts"], *hosts_of(options["listen"])],
            reactor=reactor,
        )
        listener = Listener(reactor, options["listen"], site)
    except UsageError as error:
        options.refuse(error)
    options.bind_now(listener.bind, "choose another --listen")
    options.bind_now(pipeline.bind)
    return pipeline, listener


def waits(options: WebOptions) -> str:
    """For what stopping waits."""
    jobs = "all jobs are" if options["no-journal"] or options.get("plain") else "what is in flight is"
    return f"until {jobs} settled, for {options['drain']:g} seconds at most"


def is_clean(pipeline: Pipeline) -> Callable[[], bool]:
    """Whether the pipeline has ended without leaving anything undone that was accepted."""
    return lambda: not pipeline.left_undone


def notifier(reactor: Any, pipeline: Pipeline) -> Notifier:
    """Tells systemd how the pipeline does."""

    def status() -> str:
        if pipeline.trouble is not None:
            return f"nothing is accepted: {pipeline.trouble}"
        return f"{pipeline.ready_workers} workers ready, {pipeline.pending} jobs not settled"

    return Notifier(reactor, status)


def makeService(options: Options) -> IService:
    """The service of zpipe-web."""
    from twisted.internet import reactor

    go_steadily(reactor)
    workers = options["workers"] or list(DEFAULT_WORKERS)
    pipeline, listener = make_web(options, reactor, workers, bool(options["plain"]))
    if options["until-eof"]:
        leave_at_eof(reactor)
    notify = notifier(reactor, pipeline)
    return in_order(reactor, waits(options), notify, pipeline, listener, is_clean=is_clean(pipeline))
