"""``twistd zpipe``: the whole pipeline in one command.

The web side runs in this process, the workers in processes of their own, which are started again when they die.
"""

from __future__ import annotations

from twisted.application.service import IService

from zpipeline.errors import UsageError
from zpipeline.handlers import check_handler, find_handler
from zpipeline.tap.clock import go_steadily
from zpipeline.tap.descriptors import soft_limit
from zpipeline.tap.options import whole
from zpipeline.tap.orphans import orphans_reaped
from zpipeline.tap.processes import Workers
from zpipeline.tap.services import in_order
from zpipeline.tap.web import WebOptions, is_clean, make_web, notifier, waits
from zpipeline.tap.worker import HANDLER_PARAMETERS, handler_of


class Options(WebOptions):
    """The options of zpipe."""

    command = "zpipe"
    longdesc = (
        "The whole pipeline in one command: HTTP in this process, and worker processes that are started again when "
        "they die. They listen on 127.0.0.1, and end when this process does."
    )
    optParameters = [
        ["workers", None, 3, "How many worker processes.", whole("workers", 1, 1000)],
        ["first-port", None, 4444, "The port of the first worker; the others follow.", whole("first-port", 1, 65535)],
        *HANDLER_PARAMETERS,
    ]


def makeService(options: Options) -> IService:
    """The service of zpipe."""
    from twisted.internet import reactor

    go_steadily(reactor)
    ports = range(options["first-port"], options["first-port"] + options["workers"])
    if ports[-1] > 65535:
        options.refuse(
            f"{len(ports)} workers from port {ports[0]} on: ports end at 65535", "choose a lower --first-port"
        )
    options["handler"] = handler_of(options)
    try:
        check_handler(find_handler(options["handler"]), options["handler"], in_threads=options["threads"] > 0)
    except UsageError as error:
        options.refuse(error, "see --handler")
    open_files = soft_limit()  # before it is raised
    pipeline, listener = make_web(options, reactor, [f"tcp://127.0.0.1:{port}" for port in ports], plain=False)
    notify = notifier(reactor, pipeline)  # before the workers' environments are made
    workers = Workers(reactor, open_files, on_console=options.logs_to_console, as_json=bool(options["log-json"]))
    for port in ports:
        workers.add(
            port,
            *(f"--{name}={options[name]}" for name in ("handler", "concurrency", "threads", "drain")),
        )
    services: list[IService] = [workers, pipeline, listener]
    orphans = orphans_reaped()
    if orphans is not None:
        services.insert(0, orphans)
    return in_order(reactor, waits(options), notify, *services, is_clean=is_clean(pipeline))
