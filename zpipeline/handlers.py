"""Finding handlers by MODULE:NAME, and the handlers that come with zpipeline."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeAlias

from twisted.logger import Logger

from zpipeline.errors import HandlerError
from zpipeline.job import Job
from zpipeline.text import printable

#: What runs a job. It may be plain, ``async``, or return a Deferred; an exception is a failed attempt
#: (`zpipeline.Reject` and `zpipeline.RetryLater` say what is to follow); what it returns (bytes, text or what JSON can
#: hold) is the job's result.
Handler: TypeAlias = Callable[[Job], Any]

_log = Logger()


def log(job: Job) -> None:
    """Log every job to the console, with the beginning of its body."""
    _log.info("job {id}: {body}", id=job.id, body=_shown(job.body))


def discard(job: Job) -> None:
    """Do nothing with the job: to measure what handing it on costs."""


def name_of(handler: Handler) -> str:
    """What a handler is called that nobody has named."""
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


def find_handler(name: str) -> Handler:
    """The handler of that name.

    :param name: ``MODULE:NAME``; the working directory is searched for the module too.
    :raises HandlerError: there is none, or importing its module fails.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise HandlerError(f"{name!r} is not MODULE:NAME, such as photos:resize")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any
    try:
        found = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise HandlerError(
                f"there is no module {module_name!r} in {os.getcwd()}, nor elsewhere on Python's path"
            ) from None
        raise HandlerError(f"importing {module_name!r} fails: {error}") from None
    except (Exception, SystemExit) as error:
        raise HandlerError(f"importing {module_name!r} fails: {type(error).__name__}: {error}") from None
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            like = get_close_matches(part, dir(found), 1)
            hint = f"; is it {like[0]!r}?" if like else ""
            raise HandlerError(f"{module_name!r} has no {path!r}{hint}") from None
    if not callable(found):
        raise HandlerError(f"{name!r} is not callable, but a {type(found).__name__}")
    handler: Handler = found
    return handler


def is_coroutine_function(handler: Handler) -> bool:
    """Whether it shows, before it is called, that a handler is asynchronous."""
    return _is(inspect.iscoroutinefunction, handler)


def check_handler(handler: Handler, name: str, *, in_threads: bool) -> None:
    """See that calling it with a job runs something, as far as that can be known before.

    :param name: of the handler.
    :param in_threads: whether it is to run in threads.
    :raises HandlerError: it would not.
    """
    if inspect.isclass(handler):
        raise HandlerError(f"{name} is a class, and calling it runs no job: name a function, or an instance's method")
    if _is(inspect.isgeneratorfunction, handler) or _is(inspect.isasyncgenfunction, handler):
        raise HandlerError(f"{name} is a generator, and calling it runs nothing of it: a handler must not `yield`")
    if in_threads and is_coroutine_function(handler):
        raise HandlerError(f"{name} is `async`, and runs in the reactor: leave --threads out, or make it a plain one")
    try:
        signature = inspect.signature(handler, follow_wrapped=False)  # what it wraps may be called otherwise
    except (TypeError, ValueError):
        return  # that of some functions written in C is not known
    try:
        signature.bind(None)
    except TypeError:
        raise HandlerError(
            f"{name} takes {signature}, and is called with one argument, the job"
            + (": it is a method, and needs an instance" if "self" in signature.parameters else "")
        ) from None


def _is(test: Callable[[object], bool], handler: Handler) -> bool:
    """Whether a handler, or what is called when it is, passes the test."""
    return test(handler) or test(type(handler).__call__)


def _shown(body: bytes) -> str:
    text = body[:200].decode("utf-8", "backslashreplace")
    return printable(text) if len(body) <= 200 else f"{printable(text)}... ({len(body)} bytes)"
