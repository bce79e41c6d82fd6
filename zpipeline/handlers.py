"""Finding handlers by MODULE:NAME, and the handlers that come with zpipeline."""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypeAlias

from twisted.logger import Logger
from twisted.python.reflect import safe_str

from zpipeline.errors import HandlerError
from zpipeline.job import Job
from zpipeline.text import printable

#: What runs a job. It may be plain, ``async``, or return a Deferred; an exception is a failed attempt
#: (`zpipeline.Reject` and `zpipeline.RetryLater` say what is to follow); what it returns (bytes, text or what JSON can
#: hold) is the job's result.
Handler: TypeAlias = Callable[[Job], Any]

#: Where code is that is not its user's: Python's own, and folders of what is installed.
_PYTHON = Path(sysconfig.get_path("stdlib"))
_INSTALLED = {"site-packages", "dist-packages"}

#: In characters: what is told of an error's text.
_LONGEST = 500

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
        raise HandlerError(f"importing {module_name!r} fails: {_told(error)}") from None
    except (Exception, SystemExit) as error:
        raise HandlerError(f"importing {module_name!r} fails: {_told(error)}") from None
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            like = get_close_matches(part, dir(found), 1)
            hint = f"; is it {like[0]!r}?" if like else ""
            raise HandlerError(f"{module_name!r} has no {path!r}{hint}") from None
        except (Exception, SystemExit) as error:  # modules may have a __getattr__ that imports
            raise HandlerError(f"looking for {path!r} in {module_name!r} fails: {_told(error)}") from None
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


def _told(error: BaseException) -> str:
    """What was raised, in one line, and where: in the user's code, else in what is installed."""
    said = safe_str(error)
    # without the frame of `find_handler`
    frames = list(walk_tb(error.__traceback__ and error.__traceback__.tb_next))
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        said = error.msg
        places = [(error.filename, error.lineno or 1)]
    places = [place for place in places if not _is_pythons(place[0])]
    its_own = [place for place in places if not _is_installed(place[0])]
    where = ""
    if places:
        file, line = (its_own or places)[-1]
        where = f"{_short(file)}:{line}: "
    said = " ".join(said.split())
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]}..."
    return f"{where}{type(error).__name__}: {printable(said)}"


def _is_pythons(file: str) -> bool:
    return file.startswith("<") or (Path(file).is_relative_to(_PYTHON) and not _is_installed(file))


def _is_installed(file: str) -> bool:
    return not _INSTALLED.isdisjoint(Path(file).parts)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _shown(body: bytes) -> str:
    text = body[:200].decode("utf-8", "backslashreplace")
    return printable(text) if len(body) <= 200 else f"{printable(text)}... ({len(body)} bytes)"
