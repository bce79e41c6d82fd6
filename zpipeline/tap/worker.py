"""``twistd zpipe-worker``: a PULL consumer that runs a handler."""

from __future__ import annotations

from twisted.application.service import IService
from twisted.logger import Logger

from zpipeline.addresses import make_address
from zpipeline.errors import UsageError
from zpipeline.handlers import find_handler
from zpipeline.metrics import Exposition, WorkerCollector
from zpipeline.tap.clock import go_steadily
from zpipeline.tap.deadline import GRACE, Deadline
from zpipeline.tap.eof import leave_at_eof
from zpipeline.tap.metrics import make_metrics_site
from zpipeline.tap.notify import Notifier
from zpipeline.tap.options import LOG_JSON, UNTIL_EOF, seconds, whole
from zpipeline.tap.options import Options as CommonOptions
from zpipeline.tap.output import Output
from zpipeline.tap.services import Listener, in_order
from zpipeline.window import MAX_WINDOW
from zpipeline.worker import CONCURRENCY, DRAIN, Worker

DEFAULT_HANDLER = "zpipeline.handlers:log"

HANDLER_PARAMETERS = [
    [
        "handler",
        None,
        None,
        f"What runs a job, as MODULE:NAME; the working directory is searched too. [default: {DEFAULT_HANDLER}]",
    ],
    [
        "concurrency",
        None,
        CONCURRENCY,
        "How many jobs a worker runs at once, if its handler is async.",
        whole("concurrency", 1, MAX_WINDOW),
    ],
    [
        "threads",
        None,
        0,
        "In how many threads a worker runs a handler that blocks; 0 for none: in the reactor.",
        whole("threads", 0, MAX_WINDOW),
    ],
]

log = Logger()


def handler_of(options: CommonOptions) -> str:
    """The name of the handler. If none was named, what comes of that is said in the log."""
    if options["handler"] is not None:
        return str(options["handler"])
    log.warn("without --handler jobs are only logged, and count as done: name what runs them, --handler=MODULE:NAME")
    return DEFAULT_HANDLER


class Options(CommonOptions):
    """The options of zpipe-worker."""

    command = "zpipe-worker"
    longdesc = (
        "Runs the jobs that zpipe-web, or any ZeroMQ PUSH socket, sends to its port. SIGTERM or SIGINT let it finish "
        "what it has."
    )
    optParameters = [
        ["port", None, 4444, "The port where jobs arrive.", whole("port", 1, 65535)],
        ["interface", None, "127.0.0.1", "The address or network interface where it listens; * for all."],
        *HANDLER_PARAMETERS,
        [
            "metrics",
            None,
            None,
            "The port of 127.0.0.1 where /metrics is for Prometheus. [default: none]",
            whole("metrics", 1, 65535),
        ],
        ["drain", None, DRAIN, "For how many seconds leaving waits for the jobs that are here.", seconds("drain")],
    ]
    optFlags = [LOG_JSON, UNTIL_EOF]


def makeService(options: Options) -> IService:
    """The service of zpipe-worker."""
    from twisted.internet import reactor

    go_steadily(reactor)
    handler = handler_of(options)
    try:
        worker = Worker(
            reactor,
            find_handler(handler),
            make_address(options["interface"], options["port"]),
            concurrency=options["concurrency"],
            threads=options["threads"],
            drain=options["drain"],
            name=handler,
        )
    except UsageError as error:
        options.refuse(error)
    options.bind_now(worker.bind, "choose another --port or --interface")
    services: list[IService] = [worker]
    if options["metrics"] is not None:
        site = make_metrics_site(Exposition(WorkerCollector(worker)))
        listener = Listener(reactor, f"tcp:{options['metrics']}:interface=127.0.0.1", site)
        options.bind_now(listener.bind, "choose another --metrics")
        services.insert(0, listener)
    if options["until-eof"]:
        leave_at_eof(reactor)
    waits = f"until the jobs that are here have run, for {options['drain']:g} seconds at most"
    notify = Notifier(reactor, lambda: f"handler {handler} at {worker.address}")
    deadline = Deadline(reactor, options["drain"] + GRACE, worker.asked_to_leave)
    return in_order(
        reactor, waits, notify, Output(), *services, is_clean=lambda: not worker.left_undone, deadline=deadline
    )
