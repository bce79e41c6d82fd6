"""Finding handlers by name, and the handler that logs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEventAsClassicLogText, globalLogPublisher
from twisted.trial import unittest

from zpipeline import handlers
from zpipeline.errors import HandlerError
from zpipeline.handlers import check_handler, find_handler
from zpipeline.job import Job
from zpipeline.worker import Worker

MODULE = """
size = 7

def resize(job):
    return "resized"

class Photos:
    class Crop:
        @staticmethod
        def square(job):
            return "square"
"""


class FindingTests(unittest.TestCase):
    def setUp(self) -> None:
        """Work in an empty directory, and leave no trace in what Python has imported."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.directory = self.directory.resolve()
        was, path, modules = os.getcwd(), list(sys.path), set(sys.modules)
        os.chdir(self.directory)
        # as the `twistd` script has it: its own directory first, not the working one
        sys.path[:] = [entry for entry in sys.path if entry not in ("", was, str(self.directory))]

        def restore() -> None:
            os.chdir(was)
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                del sys.modules[name]

        self.addCleanup(restore)
        self.write("zphotos", MODULE)

    def write(self, name: str, text: str) -> None:
        path = self.directory / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def says(self, name: str, text: str) -> None:
        """Finding it fails with exactly this, in one line."""
        error = self.assertRaises(HandlerError, find_handler, name)
        self.assertEqual(str(error), text)
        self.assertNotIn("\n", str(error))

    def test_the_working_directory_is_searched(self) -> None:
        self.assertEqual(find_handler("zphotos:resize")(Job((1, 1), b"")), "resized")
        self.assertEqual(sys.path[0], str(self.directory))

    def test_a_working_directory_that_is_searched_already_is_not_added_again(self) -> None:
        for entry in (str(self.directory), ""):
            sys.path.append(entry)
            before = list(sys.path)
            find_handler("zphotos:resize")
            self.assertEqual(sys.path, before)
            sys.path.remove(entry)

    def test_nested_names_and_modules_are_found(self) -> None:
        self.write("zpackage.__init__", "")
        self.write("zpackage.photos", MODULE)
        self.assertEqual(find_handler("zpackage.photos:Photos.Crop.square")(Job((1, 1), b"")), "square")

    def test_the_bundled_handlers_are_found(self) -> None:
        self.assertIs(find_handler("zpipeline.handlers:log"), handlers.log)
        self.assertIs(find_handler("zpipeline.handlers:discard"), handlers.discard)
        handlers.discard(Job((1, 1), b""))

    def test_a_class_is_callable(self) -> None:
        self.assertEqual(find_handler("zphotos:Photos").__name__, "Photos")

    def test_a_name_of_another_form_is_said(self) -> None:
        for name in ("", ":", "zphotos", "zphotos:", ":resize"):
            self.says(name, f"{name!r} is not MODULE:NAME, such as photos:resize")

    def test_a_module_that_is_not_there_is_said(self) -> None:
        where = f"in {self.directory}, nor elsewhere on Python's path"
        for name in ("znothing", "znothing.at.all", "zphotos.more"):
            self.says(f"{name}:resize", f"there is no module {name!r} {where}")

    def test_a_module_whose_own_imports_fail_is_said_with_the_line_that_imports(self) -> None:
        self.write("zneedy", "\nimport zmissing")
        self.says(
            "zneedy:run", "importing 'zneedy' fails: zneedy.py:2: ModuleNotFoundError: No module named 'zmissing'"
        )
        self.write("zneedier", "from zphotos import nothing")
        error = self.assertRaises(HandlerError, find_handler, "zneedier:run")
        self.assertIn("fails: zneedier.py:1: ImportError: cannot import name 'nothing' from 'zphotos'", str(error))

    def test_a_module_that_raises_is_said_with_the_line(self) -> None:
        self.write("zbroken", "\n\n1 / 0")
        self.says("zbroken:run", "importing 'zbroken' fails: zbroken.py:3: ZeroDivisionError: division by zero")

    def test_the_line_is_the_innermost_of_ones_own_code(self) -> None:
        self.write("zouter", "import zinner")
        self.write("zinner", "def inner():\n    1 / 0\n\ninner()")
        self.says("zouter:run", "importing 'zouter' fails: zinner.py:2: ZeroDivisionError: division by zero")

    def test_what_python_or_a_library_raises_is_said_with_the_line_that_called_it(self) -> None:
        self.write("zjson", "import json\n\njson.loads('{')")
        error = self.assertRaises(HandlerError, find_handler, "zjson:run")
        self.assertIn("importing 'zjson' fails: zjson.py:3: JSONDecodeError: ", str(error))
        self.write("site-packages.zlibrary", "1 / 0")
        self.write("zcaller", "import sys\nsys.path.append('site-packages')\nimport zlibrary")
        self.says("zcaller:run", "importing 'zcaller' fails: zcaller.py:3: ZeroDivisionError: division by zero")
        path = self.directory / "site-packages"
        sys.path.append(str(path))
        self.write("site-packages.zinstalled", "1 / 0")
        self.says(
            "zinstalled:run",
            "importing 'zinstalled' fails: site-packages/zinstalled.py:1: ZeroDivisionError: division by zero",
        )

    def test_code_elsewhere_is_said_by_its_whole_path(self) -> None:
        elsewhere = self.directory.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / "zfar.py").write_text("1 / 0")
        sys.path.append(str(elsewhere))
        self.says("zfar:run", f"importing 'zfar' fails: {elsewhere}/zfar.py:1: ZeroDivisionError: division by zero")

    def test_a_module_that_is_no_python_is_said_with_its_own_line(self) -> None:
        self.write("zsyntax", "import json\n\ndef (")
        self.write("zimports", "import zsyntax")
        for name in ("zsyntax", "zimports"):
            error = self.assertRaises(HandlerError, find_handler, f"{name}:run")
            self.assertIn(f"importing '{name}' fails: zsyntax.py:3: SyntaxError: invalid syntax", str(error))
        self.write("zindent", "if 1:\npass")
        error = self.assertRaises(HandlerError, find_handler, "zindent:run")
        self.assertIn("importing 'zindent' fails: zindent.py:2: IndentationError: expected an indented", str(error))

    def test_text_that_is_no_python_is_said_with_the_line_that_compiles_it(self) -> None:
        self.write("zcompiles", "\neval('1 +')")
        error = self.assertRaises(HandlerError, find_handler, "zcompiles:run")
        self.assertIn("importing 'zcompiles' fails: zcompiles.py:2: SyntaxError: ", str(error))

    def test_a_script_that_exits_is_said(self) -> None:
        self.write("zscript", "import sys; sys.exit(3)")
        self.says("zscript:run", "importing 'zscript' fails: zscript.py:1: SystemExit: 3")

    def test_an_error_that_is_long_or_cannot_be_said_is_one_line_nevertheless(self) -> None:
        self.write("zlong", "raise ValueError('x\\n' * 100_000)")
        self.says("zlong:run", f"importing 'zlong' fails: zlong.py:1: ValueError: {'x ' * 250}...")
        self.write("zmute", "class Mute(Exception):\n    def __str__(self):\n        1 / 0\n\nraise Mute")
        error = self.assertRaises(HandlerError, find_handler, "zmute:run")
        self.assertIn("importing 'zmute' fails: zmute.py:5: Mute: ", str(error))

    def test_a_relative_name_is_said(self) -> None:
        error = self.assertRaises(HandlerError, find_handler, ".zphotos:run")
        self.assertIn("importing '.zphotos' fails: TypeError: ", str(error))

    def test_a_module_that_fails_when_it_is_asked_for_a_name_is_said_with_the_line(self) -> None:
        self.write("zlazy", "def __getattr__(name):\n    import zmissing")
        why = "zlazy.py:2: ModuleNotFoundError: No module named 'zmissing'"
        self.says("zlazy:run", f"looking for 'run' in 'zlazy' fails: {why}")

    def test_a_name_that_is_not_in_the_module_is_said_with_what_may_be_meant(self) -> None:
        self.says("zphotos:resise", "'zphotos' has no 'resise'; is it 'resize'?")
        self.says("zphotos:Photos.Crop.sqare", "'zphotos' has no 'Photos.Crop.sqare'; is it 'square'?")
        self.says("zphotos:xyzzy", "'zphotos' has no 'xyzzy'")
        self.says("zphotos:resize.", "'zphotos' has no 'resize.'")

    def test_what_cannot_be_called_is_said(self) -> None:
        self.says("zphotos:size", "'zphotos:size' is not callable, but a int")


class Photos:
    """Handlers of several kinds."""

    def resize(self, job: Job) -> None:
        pass

    def __call__(self, job: Job) -> None:
        pass

    def lazily(self, job: Job) -> Iterator[None]:
        yield

    async def rows(self, job: Job) -> AsyncIterator[None]:
        yield

    async def later(self, job: Job) -> None:
        pass


class Lazy:
    """Calling it makes a generator."""

    def __call__(self, job: Job) -> Iterator[None]:
        yield


class Later:
    """Calling it makes a coroutine."""

    async def __call__(self, job: Job) -> None:
        pass


@wraps(Photos.resize)
def wrapped(job: Job) -> None:
    """What it wraps takes an instance, too."""


class CheckTests(unittest.SynchronousTestCase):
    """What shows before a handler is called."""

    def refused(self, handler: Any, text: str, *, in_threads: bool = False) -> None:
        error = self.assertRaises(HandlerError, check_handler, handler, "photos:it", in_threads=in_threads)
        self.assertIn(text, str(error))

    def test_handlers_that_can_work(self) -> None:
        photos = Photos()
        for handler in (len, print, bytes.hex, photos, photos.resize, partial(Photos.resize, photos), wrapped, min):
            for in_threads in (False, True):
                check_handler(handler, "photos:it", in_threads=in_threads)
        for handler in (photos.later, Later(), lambda job, size=7: None, lambda *jobs: None):
            check_handler(handler, "photos:it", in_threads=False)

    def test_generators_never_run(self) -> None:
        photos = Photos()
        for handler in (photos.lazily, photos.rows, Lazy(), partial(Photos.lazily, photos)):
            self.refused(handler, "photos:it is a generator, and calling it runs nothing of it")

    def test_asynchronous_ones_never_run_in_threads(self) -> None:
        photos = Photos()
        for handler in (photos.later, Later(), partial(Photos.later, photos)):
            self.refused(handler, "photos:it is `async`, and runs in the reactor: leave --threads out", in_threads=True)

    def test_those_that_take_other_arguments_cannot_be_called(self) -> None:
        self.refused(
            Photos.resize, "(self, job: 'Job') -> 'None', and is called with one argument, the job: it is a me"
        )
        for handler in (lambda: None, lambda job, size: None, lambda *, job: None, wraps(len)(lambda: None)):
            self.refused(handler, "and is called with one argument, the job")

    def test_a_class_is_no_handler(self) -> None:
        self.refused(Photos, "photos:it is a class, and calling it runs no job")

    def test_a_worker_is_not_made_with_one_that_would_not_run(self) -> None:
        for handler, options in ((Photos().lazily, {}), (Photos().later, {"threads": 2}), (Photos.resize, {})):
            self.assertRaises(HandlerError, Worker, Clock(), handler, **options)


class LogTests(unittest.TestCase):
    def line(self, body: bytes) -> str:
        """What logging this body puts on the console."""
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        try:
            handlers.log(Job((1, 2), body))
        finally:
            globalLogPublisher.removeObserver(events.append)
        (line,) = [formatEventAsClassicLogText(event) for event in events]
        assert line is not None
        self.assertTrue(line.endswith("\n"))
        return line[:-1]

    def shown(self, body: bytes) -> str:
        return self.line(body).partition(f"job {Job((1, 2), b'').id}: ")[2]

    def test_text_is_shown_as_it_is(self) -> None:
        self.assertEqual(self.shown("photo=7&caf\xe9=\u2615 {body}".encode()), "photo=7&caf\xe9=\u2615 {body}")

    def test_an_empty_body_is_shown_as_nothing(self) -> None:
        self.assertEqual(self.shown(b""), "")

    def test_bytes_that_are_no_text_are_shown_by_number(self) -> None:
        self.assertEqual(self.shown(b"a\xff\xfe\0b"), "a\\xff\\xfe\\x00b")

    def test_a_long_body_is_cut_and_its_size_named(self) -> None:
        self.assertEqual(self.shown(b"x" * 200), "x" * 200)
        self.assertEqual(self.shown(b"x" * 201), "x" * 200 + "... (201 bytes)")

    def test_a_character_that_is_cut_in_two_is_no_trouble(self) -> None:
        self.assertEqual(self.shown(b"x" * 199 + "\xe9".encode()), "x" * 199 + "\\xc3... (201 bytes)")

    def test_nothing_reaches_the_console_that_a_terminal_obeys(self) -> None:
        every = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028, 0x2029, 0xAD, 0xFEFF]))
        for body in (every.encode(), bytes(range(256)), b"\x1b]0;title\x07\x1b[31mred\r\n\x9b2J"):
            for part in range(0, len(body), 50):
                line = self.line(body[part : part + 50])
                self.assertEqual([c for c in line if not c.isprintable()], [])
        self.assertEqual(self.shown(b"\x1b[31m\r\n"), "\\x1b[31m\\r\\n")
