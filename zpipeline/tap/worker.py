"""``twistd zpipe-worker``: a PULL consumer that runs a handler."""

from __future__ import annotations

from twisted.application.service import IService

from zpipeline.addresses import make_address
from zpipeline.errors import UsageError
from zpipeline.handlers import find_handler
from zpipeline.tap.options import UNTIL_EOF, seconds, whole
from zpipeline.tap.options import Options as CommonOptions
from zpipeline.tap.services import in_order
from zpipeline.worker import CONCURRENCY, DRAIN, Worker

DEFAULT_HANDLER = "zpipeline.handlers:log"

HANDLER_PARAMETERS = [
    ["handler", None, DEFAULT_HANDLER, "What runs a job, as MODULE:NAME; the working directory is searched too."],
    ["concurrency", None, CONCURRENCY, "How many jobs run at once, if the handler is async.", whole("concurrency")],
    ["threads", None, 0, "Run a blocking handler in so many threads; 0: in the reactor.", whole("threads", 0)],
]


class Options(CommonOptions):
    """The options of zpipe-worker."""

    command = "zpipe-worker"
    synopsis = "[options]"
    longdesc = "Runs the jobs that zpipe-web, or any ZeroMQ PUSH socket, sends to its port. SIGTERM lets it finish."
    optParameters = [
        ["port", None, 4444, "The port where jobs arrive.", whole("port")],
        ["interface", None, "127.0.0.1", "The address where it listens; * for all."],
        *HANDLER_PARAMETERS,
        ["drain", None, DRAIN, "How many seconds leaving waits for the jobs that are here.", seconds("drain")],
    ]
    optFlags = [UNTIL_EOF]

    def parseArgs(self) -> None:
        """There are none."""


def makeService(options: Options) -> IService:
    """The service of zpipe-worker."""
    from twisted.internet import reactor

    try:
        worker = Worker(
            reactor,
            find_handler(options["handler"]),
            make_address(options["interface"], options["port"]),
            concurrency=options["concurrency"],
            threads=options["threads"],
            drain=options["drain"],
            name=options["handler"],
        )
    except UsageError as error:
        options.refuse(error)
    options.bind_now(worker.bind)
    options.heed_eof(reactor)
    return in_order(worker)
