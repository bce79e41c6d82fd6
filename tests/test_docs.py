"""What README.rst and docs/ say: programs run, options exist, files are there, and log lines are those of the code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import socket
import sqlite3
import sys
import unittest
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from http.client import HTTPConnection
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError

from attrs import frozen
from twisted.application.app import ServerOptions
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.reflect import namedAny
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.faults.load import Load
from tests.faults.rig import TWISTD, Process, Rig, free_port
from zpipeline import Job, JobStatus, Pipeline, Reject, RetryLater, Worker, cli
from zpipeline.care import command as journal
from zpipeline.dead import command as dead
from zpipeline.demo import command as demo
from zpipeline.handlers import Handler, find_handler
from zpipeline.link import State
from zpipeline.look import status, top
from zpipeline.tap import all as zpipe
from zpipeline.tap import web, worker

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.rst", ROOT / "CHANGELOG.rst", *sorted((ROOT / "docs").glob("*.rst"))]
PORTS = ("8080", "4444", "4445")


@frozen
class Block:
    """A literal block of a page; a program says its file name in its first line."""

    page: str
    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        match = re.match(r"# (\w+\.py)\n", self.text)
        return match[1] if match else None


def blocks(page: Path) -> Iterator[Block]:
    """The literal blocks of a page."""
    lines = page.read_text().splitlines()
    for start, line in enumerate(lines):
        directive = re.fullmatch(r"( *)\.\. code-block:: (\w+)", line)
        if directive is None and (not line.endswith("::") or line.lstrip().startswith("..")):
            continue
        margin = len(line) - len(line.lstrip())
        body = []
        for following in lines[start + 1 :]:
            if following.strip() and len(following) - len(following.lstrip()) <= margin:
                break
            body.append(following)
        text = "\n".join(body).strip("\n")
        indent = min(len(row) - len(row.lstrip()) for row in text.splitlines() if row.strip())
        text = "\n".join(row[indent:] for row in text.splitlines()) + "\n"
        yield Block(page.name, directive[2] if directive else "", text)


BLOCKS = [block for page in PAGES for block in blocks(page)]
PROGRAMS = {(block.page, block.file_name): block.text for block in BLOCKS if block.file_name}


class ProgramTests(SynchronousTestCase):
    """Programs that are run as such, beside a worker that writes down what it runs."""

    def setUp(self) -> None:
        self.rig = Rig().__enter__()
        self.addCleanup(self.rig.close)

    def run_program(self, text: str, *command: str, handler: str = "record") -> tuple[Process, dict[str, int]]:
        """Start a program, on free ports in place of those that it names, and the workers that it wants."""
        ports = {port: free_port() for port in PORTS}
        for named, free in ports.items():
            text = re.sub(rf"\b{named}\b", str(free), text)
        (self.rig.folder / "program.py").write_text(text)
        for port in ("4444", "4445"):
            if str(ports[port]) in text:
                self.rig.worker(ports[port], handler=handler)
        return self.rig.start("program", [*(command or [sys.executable]), "program.py"], ports["8080"]), ports

    def bodies(self) -> list[str]:
        return sorted(body for record in self.rig.records().values() for body in record.bodies)

    def assert_pushes(self, text: str, *command: str, paths: tuple[str, ...] = ("/photos",)) -> tuple[Process, str]:
        """Whatever is posted to it runs, under the id that it answers; and it ends when it is told to."""
        process, _ = self.run_program(text, *command)
        self.rig.until("the program serves", lambda: listens(process.port))
        ids = []
        for path in paths:
            status, answer = request(process.port, "POST", path, b"picture")
            self.assertIn(status, (200, 202), answer)
            ids.append(answer.decode().strip())
        self.rig.until_all_ran(ids)
        self.assertEqual(self.bodies(), ["picture"] * len(paths))
        return process, ids[0]

    def assert_ends(self, process: Process) -> None:
        process.end()
        self.assertNotIn("Traceback", process.log)

    def test_the_klein_application_of_readme(self) -> None:
        process, _ = self.assert_pushes(PROGRAMS["README.rst", "app.py"])
        self.assert_ends(process)

    def test_the_klein_application_of_embedding(self) -> None:
        process, _ = self.assert_pushes(PROGRAMS["embedding.rst", "klein_web.py"])
        self.assertEqual(request(process.port, "POST", "/photos", b"x" * 1_048_577)[0], 413)
        self.assert_ends(process)

    def test_the_klein_application_that_waits_for_results(self) -> None:
        process, _ = self.run_program(PROGRAMS["embedding.rst", "result_web.py"], handler="echo")
        self.rig.until("the program serves", lambda: listens(process.port))
        self.assertEqual(request(process.port, "POST", "/photos", b"picture"), (200, b"b'picture'"))
        self.assert_ends(process)

    def test_the_resource_of_embedding(self) -> None:
        process, _ = self.assert_pushes(PROGRAMS["embedding.rst", "resource_web.py"])
        self.assertEqual(request(process.port, "POST", "/photos", b"x" * 1_048_577)[0], 413)
        self.assert_ends(process)

    def test_the_whole_interface_in_a_site(self) -> None:
        process, _ = self.run_program(PROGRAMS["embedding.rst", "mounted_web.py"])
        self.rig.until("the program serves", lambda: listens(process.port))
        status, answer = request(process.port, "POST", "/queue/", b"picture")
        self.assertEqual(status, 202, answer)
        self.rig.until_all_ran([json.loads(answer)["id"]])
        self.assertEqual(request(process.port, "GET", "/queue/stats")[0], 200)
        self.assert_ends(process)

    def test_the_twistd_application_with_two_queues(self) -> None:
        command = [*TWISTD, "--pidfile=", "--python"]
        text = PROGRAMS["embedding.rst", "two_queues.py"]
        process, _ = self.assert_pushes(text, *command, paths=("/mail", "/photos"))
        self.assertEqual(sorted(len(record.ended) for record in self.rig.records().values()), [1, 1])
        self.assert_ends(process)

    def test_the_wsgi_application(self) -> None:
        process, _ = self.assert_pushes(PROGRAMS["embedding.rst", "wsgi_web.py"])
        self.assert_ends(process)

    def test_the_example_klein_app(self) -> None:
        command = [*TWISTD, "--pidfile=", "--python"]
        process, job_id = self.assert_pushes((ROOT / "examples/klein_app.py").read_text(), *command)
        self.rig.until("the job is done", lambda: request(process.port, "GET", f"/photos/{job_id}")[1] == b"done\n")
        self.assertEqual(request(process.port, "GET", "/photos/unknown")[0], 404)
        self.assert_ends(process)

    def test_pushing_from_asyncio(self) -> None:
        process, _ = self.run_program(PROGRAMS["embedding.rst", "asyncio_push.py"])
        self.assertEqual(process.wait(), 0, process.log)
        self.assertEqual(self.bodies(), [f"job {number}" for number in range(10)])

    def test_pipeline_and_worker_in_one_process(self) -> None:
        process, _ = self.run_program(PROGRAMS["embedding.rst", "one_process.py"])
        self.assertEqual(process.wait(), 0, process.log)
        self.assertEqual(process.log, "HELLO\n")

    def test_plain_jobs(self) -> None:
        process, _ = self.run_program(PROGRAMS["handlers.rst", "push.py"])
        self.assertEqual(process.wait(), 0, process.log)
        self.rig.until("both have run", lambda: self.bodies() == ["a job", "another job"])

    def test_the_asyncio_handler(self) -> None:
        (self.rig.folder / "aio.py").write_text(PROGRAMS["handlers.rst", "aio.py"])
        port = free_port()
        command = [*TWISTD, "-r", "asyncio", "zpipe-worker", f"--port={port}", "--handler=aio:run"]
        self.rig.start("worker", command, port)
        web = self.rig.web([port])
        job_id = json.loads(request(web.port, "POST", "/", b'{"answer": 42}')[1])["id"]

        def job() -> Any:
            return json.loads(request(web.port, "GET", f"/jobs/{job_id}")[1])

        self.rig.until("the job is settled", lambda: job()["settled_at"])
        self.assertEqual(job()["state"], "done", self.rig.logs())


class BackupTests(SynchronousTestCase):
    """What guarantees.rst says of copies of the journal: they can be restored; jobs that were run since run again."""

    def assert_can_be_restored(self, back_up: Callable[[Path, Path], object]) -> None:
        """Copies that are made by this, of a journal that is in use."""
        with Rig() as rig:
            worker = rig.worker()
            web = rig.web([worker.port])
            rig.until_ready(web, 1)
            before = Load(web.port, [b"before"] * 100).run(5)
            rig.until_all_ran(before.accepted)
            worker.end()
            waiting = Load(web.port, [b"waiting"] * 100).run(5)
            path, copy = rig.folder / f"journal-{web.port}.sqlite", rig.folder / "copy.sqlite"
            back_up(path, copy)
            worker = rig.again(worker)
            rig.until_all_ran(waiting.accepted)
            self.assertEqual((web.end(), worker.end()), (0, 0))
            for left in (path, *rig.folder.glob(f"{path.name}-*")):
                left.unlink()
            copy.rename(path)
            rig.again(worker)
            rig.again(web)
            rig.until("they have run again", lambda: {rig.ended()[job_id] for job_id in waiting.accepted} == {2})
            self.assertEqual({rig.ended()[job_id] for job_id in before.accepted}, {1})

    def test_a_copy_by_our_own_command(self) -> None:
        def back_up(path: Path, copy: Path) -> None:
            with redirect_stdout(StringIO()) as said:
                self.assertEqual(cli.main(["journal", "backup", str(copy), f"--journal={path}"]), 0)
            self.assertIn(" 100 jobs unsettled", said.getvalue())

        self.assert_can_be_restored(back_up)

    def test_a_copy_by_sqlites_own_means(self) -> None:
        def back_up(path: Path, copy: Path) -> None:
            with closing(sqlite3.connect(path)) as journal:
                journal.execute(f"VACUUM INTO '{copy}'")

        self.assert_can_be_restored(back_up)


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def request(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request: status and body of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class HandlerTests(TestCase):
    """Handlers, in a worker and a pipeline that are in this process."""

    def load(self, page: str, name: str, function: str) -> Handler:
        """The handler, imported as a worker does it."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / name).write_text(PROGRAMS[page, name])
        before = os.getcwd(), list(sys.path)
        os.chdir(folder)
        sys.path[:0] = [str(folder)]
        importlib.invalidate_caches()
        module = name.removesuffix(".py")

        def restore() -> None:
            os.chdir(before[0])
            sys.path[:] = before[1]
            sys.modules.pop(module, None)

        self.addCleanup(restore)
        return find_handler(f"{module}:{function}")

    async def run_jobs(self, handler: Handler, *bodies: bytes, threads: int = 0, attempts: int = 5) -> list[JobStatus]:
        """What becomes of these jobs."""
        worker = Worker(reactor, handler, "tcp://127.0.0.1:*", threads=threads)
        worker.startService()
        self.addCleanup(worker.stopService)
        pipeline = Pipeline(reactor, [worker.address], journal=None, sink="tcp://127.0.0.1:*", attempts=attempts)
        pipeline.startService()
        ids = await pipeline.push_many(bodies, {"X-User": "ada"})
        await pipeline.stopService()  # without a journal it waits for all of them
        statuses = [await pipeline.job(job_id) for job_id in ids]
        return [status for status in statuses if status is not None]

    def assert_done(self, statuses: list[JobStatus], count: int = 1) -> None:
        self.assertEqual([(status.state, status.error) for status in statuses], [("done", None)] * count)

    def log_of(self, pattern: str) -> list[str]:
        """What is logged from now on and has the pattern in it."""
        lines: list[str] = []

        def observe(event: dict[str, object]) -> None:
            text = formatEvent(event)
            if re.search(pattern, text):
                lines.append(text)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines

    async def page(self) -> bytes:
        """The address of a page of five bytes."""
        root = Resource()
        page = Resource()
        page.isLeaf = True
        page.render_GET = lambda request: b"12345"
        root.putChild(b"page", page)
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Site(root))
        self.addCleanup(port.stopListening)
        return b"http://127.0.0.1:%d/page" % port.getHost().port

    async def test_the_handler_of_readme(self) -> None:
        self.assert_done(await self.run_jobs(self.load("README.rst", "photos.py", "resize"), b"any bytes"))

    async def test_the_plain_one(self) -> None:
        resize = self.load("handlers.rst", "photos.py", "resize")
        self.assert_done(await self.run_jobs(resize, b'{"width": 640}'))

    async def test_its_failure_is_logged_as_it_is_shown(self) -> None:
        resize = self.load("handlers.rst", "photos.py", "resize")
        lines = self.log_of("KeyError")
        [status] = await self.run_jobs(resize, b"{}", attempts=1)
        self.flushLoggedErrors(KeyError)
        self.assertEqual((status.state, status.error), ("dead", "KeyError: 'width'"))
        shown = next(block.text for block in BLOCKS if "failed: KeyError" in block.text)
        for line, logged in zip(shown.splitlines(), lines, strict=True):
            self.assertEqual(re.sub("[0-9a-f]{32}", status.id, line), logged.splitlines()[0])

    async def test_the_one_that_returns_something(self) -> None:
        measure = self.load("handlers.rst", "thumbnails.py", "measure")
        self.assertEqual(measure(Job((7, 1), b"two words")), {"bytes": 9, "words": 2})
        self.assert_done(await self.run_jobs(measure, b"two words"))

    async def test_the_asynchronous_ones(self) -> None:
        page = await self.page()
        for function in ("fetch", "fetch_by_deferred"):
            fetch = self.load("handlers.rst", "pages.py", function)
            self.assert_done(await self.run_jobs(fetch, page, page), 2)

    async def test_the_blocking_one_in_threads(self) -> None:
        page = await self.page()
        fetch = self.load("handlers.rst", "blocking.py", "fetch")
        self.assert_done(await self.run_jobs(fetch, page, page, threads=2), 2)

    async def test_the_one_that_rejects_and_puts_off(self) -> None:
        call = self.load("handlers.rst", "hooks.py", "call")
        root = Resource()
        root.isLeaf = True
        root.render_POST = lambda request: request.setResponseCode(int(request.postpath[0])) or b""
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Site(root))
        self.addCleanup(port.stopListening)

        async def outcome(body: dict[str, str]) -> BaseException | None:
            try:
                await deferToThread(call, Job((1, 1), json.dumps(body).encode()))
            except Exception as error:
                return error
            return None

        hook = f"http://127.0.0.1:{port.getHost().port}"
        self.assertIsNone(await outcome({"url": f"{hook}/200", "text": "hello"}))
        for body in ({"url": f"{hook}/404", "text": "hello"}, {"url": hook}, {"url": "no address", "text": "hello"}):
            self.assertIsInstance(await outcome(body), Reject)
        later = await outcome({"url": f"{hook}/503", "text": "hello"})
        self.assertIsInstance(later, RetryLater)
        self.assertEqual(getattr(later, "seconds", None), 60)
        self.assertIsInstance(await outcome({"url": f"{hook}/500", "text": "hello"}), HTTPError)

    async def test_the_one_of_the_tutorial(self) -> None:
        count = self.load("tutorial.rst", "words.py", "count")
        statuses = await self.run_jobs(count, b"the quick brown fox", b"")
        self.assertEqual(
            [(status.state, status.error) for status in statuses],
            [("done", None), ("dead", "there is nothing to count")],
        )
        self.assertEqual(count(Job((1, 1), b"the quick brown fox")), {"words": 4, "attempt": 1})

    async def test_the_one_that_logs(self) -> None:
        lines = self.log_of("bytes$")
        [status] = await self.run_jobs(self.load("handlers.rst", "logged.py", "handle"), b"12345")
        self.assertEqual(lines, [f"job {status.id} has 5 bytes"])

    async def test_payments_are_made_once_for_each_job(self) -> None:
        pay = self.load("handlers.rst", "payments.py", "pay")
        self.assert_done(await self.run_jobs(pay, b'{"cents": 250}', b'{"cents": 250}'), 2)
        pay(Job((1, 1), b'{"cents": 1}'))
        pay(Job((1, 1), b'{"cents": 1}'))
        database = sys.modules["payments"].database()
        self.addCleanup(database.close)
        self.assertEqual(database.execute("SELECT sum(cents) FROM payments").fetchall(), [(501,)])

    async def test_deposits_are_made_once_for_each_job(self) -> None:
        deposit = self.load("guarantees.rst", "deposits.py", "deposit")
        order = b'{"account": "ada", "cents": 250}'
        self.assert_done(await self.run_jobs(deposit, order, order), 2)
        deposit(Job((1, 1), order))
        deposit(Job((1, 1), order))
        database = sys.modules["deposits"].database()
        self.addCleanup(database.close)
        self.assertEqual(database.execute("SELECT * FROM accounts").fetchall(), [("ada", 750)])

    def assert_tests_pass(self, text: str, case: str, count: int) -> None:
        names: dict[str, object] = {"__name__": "tests_of_a_page"}
        exec(compile(text, "tests_of_a_page.py", "exec"), names)
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(names[case])  # type: ignore[arg-type]
        result = unittest.TestResult()
        suite.run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (count, [], []))

    def test_the_test_of_a_handler(self) -> None:
        self.load("handlers.rst", "payments.py", "pay")
        self.addCleanup(lambda module: module.database().close(), sys.modules["payments"])
        self.assert_tests_pass(PROGRAMS["handlers.rst", "test_payments.py"], "PaymentTests", 1)

    def test_the_tests_of_a_handler_behind_a_pipeline(self) -> None:
        self.load("testing.rst", "letters.py", "send")
        self.assert_tests_pass(PROGRAMS["testing.rst", "test_letters.py"], "LetterTests", 4)

    def test_the_tests_of_a_web_application(self) -> None:
        self.load("testing.rst", "photos_web.py", "Photos")
        self.assert_tests_pass(PROGRAMS["testing.rst", "test_photos_web.py"], "PhotosTests", 3)


class PageTests(SynchronousTestCase):
    """What the pages name."""

    def test_every_program_on_a_page_is_run_by_a_test_here(self) -> None:
        """A test names each by its page and its file; Python that is not such a program has no place there."""
        source = Path(__file__).read_text()
        named = set(re.findall(r'"([\w.-]+\.rst)", "(\w+\.py)"', source))
        self.assertEqual(named, set(PROGRAMS))
        fragments = [block for block in BLOCKS if block.language == "python" and block.file_name is None]
        self.assertEqual(fragments, [])

    def test_every_command_on_a_page_has_the_options_that_it_is_given(self) -> None:
        commands = [words for block in BLOCKS for words in commands_of(block.text)]
        self.assertGreater(len(commands), 20)
        for words in commands:
            with_value, flags = options_of(words)
            for word in words:
                name = word.partition("=")[0]
                if name.startswith("-") and name not in with_value | flags:
                    self.fail(f"{name} is no option of {shlex.join(words)}")

    def test_every_option_that_a_page_names_exists(self) -> None:
        known = {"--reactor", "--pidfile", "--logfile", "--logger", "--syslog", "--python", "--nodaemon", "--help"}
        for options in (web.Options(), worker.Options(), zpipe.Options(), zpipe_options()):
            known |= long_options(options) if isinstance(options, Options) else options
        for page in PAGES:
            for text in re.findall(r"``([^`]*)``", page.read_text()):
                for name in re.findall(r"(?:^|(?<=\s))--[a-z][a-z-]*", text):
                    self.assertIn(name, known, f"``{text}`` in {page.name}")

    def test_every_file_that_readme_links_to_is_there(self) -> None:
        targets = re.findall(r"<([^>:]+)>`_", (ROOT / "README.rst").read_text())
        self.assertGreater(len(targets), 8)
        self.assertEqual([target for target in targets if not (ROOT / target).is_file()], [])

    def test_every_file_of_the_project_that_a_page_names_is_there(self) -> None:
        for page in PAGES:
            for path in re.findall(r"``((?:examples|tests|docs)/[\w./]+)``", page.read_text()):
                self.assertTrue((ROOT / path).is_file(), f"{path}, in {page.name}")

    def test_every_test_that_a_page_names_exists(self) -> None:
        names = {name for page in PAGES for name in re.findall(r"``(tests\.[\w.]+)``", page.read_text())}
        self.assertGreater(len(names), 40)
        for name in names:
            self.assertTrue(holds_tests(namedAny(name)), name)

    def test_every_log_line_is_explained(self) -> None:
        """Whatever zpipeline logs, questions.rst has it, between what stands for its fields."""
        text = (ROOT / "docs/questions.rst").read_text()
        formats = set(log_formats())
        self.assertGreater(len(formats), 25)
        for line in formats:
            for part in re.split(r"\{\w+\}", line.split("\n")[0]):
                self.assertIn(part.strip(" ,:;()"), text, f"of {line!r}")

    def test_every_reason_for_trying_again_is_explained(self) -> None:
        text = (ROOT / "docs/questions.rst").read_text()
        reasons = [*reasons_of("sockets.py"), *reasons_of("link.py"), *reasons_of("pipeline/sessions.py")]
        reasons += [State.RESOLVING.value, State.CONNECTING.value]
        self.assertGreater(len(reasons), 9)
        for reason in reasons:
            self.assertIn(reason.strip(" ,:"), text)

    def test_every_module_is_on_the_map(self) -> None:
        text = (ROOT / "docs/how-it-works.rst").read_text()
        modules = {path.stem for path in (ROOT / "zpipeline").iterdir() if not path.name.startswith(("_", "py."))}
        on_the_map = set(re.findall(r"``(\w+)``", text[text.index("The modules") :]))
        self.assertEqual(modules - on_the_map, set())

    def test_a_module_imports_only_from_those_above_it_on_the_map(self) -> None:
        text = (ROOT / "docs/how-it-works.rst").read_text()
        above: set[str] = set()
        for line in re.findall(r"^``.*``  ", text[text.index("The modules") :], re.MULTILINE):
            modules = set(re.findall(r"\w+", line))
            above |= modules
            for module in modules:
                self.assertLessEqual(imports_of(ROOT / "zpipeline" / module), above, module)


def holds_tests(named: object) -> bool:
    """Whether it is a test, or a class or a module with tests."""
    if isinstance(named, ModuleType):
        return any(holds_tests(member) for member in vars(named).values() if isinstance(member, type))
    if isinstance(named, type):
        return issubclass(named, unittest.TestCase)
    return getattr(named, "__name__", "").startswith("test_")


def imports_of(path: Path) -> set[str]:
    """The modules of zpipeline that a module, or a package of it, imports from, but for annotations alone."""
    found = set()
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        tree = ast.parse(file.read_text())
        for_annotations = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if node in for_annotations:
                continue
            if isinstance(node, ast.ImportFrom) and node.module == "zpipeline":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("zpipeline."):
                found.add(str(node.module).split(".")[1])
    return {name for name in found if not name.startswith("_")}


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of ours in a block, as lists of words."""
    for line in text.splitlines():
        match = re.search(r"(?:^|^\$ |/)((?:twistd|zpipe (?:demo|dead|journal|status|top))(?: [^|]*|$))", line)
        if match:
            yield shlex.split(match[1], comments=True)


def options_of(words: list[str]) -> tuple[set[str], set[str]]:
    """The names of the options of a command: those of twistd, then those of its plugin."""
    if words[0] == "zpipe":
        return zpipe_options(), set()
    plugins: dict[str, type[Options]] = {
        "zpipe-web": web.Options,
        "zpipe-worker": worker.Options,
        "zpipe": zpipe.Options,
    }
    names = long_options(ServerOptions()) | {"-n", "-r", "-y", "--python"}
    for word in words:
        if word in plugins:
            return names, long_options(plugins[word]())
    return names, set()


def long_options(options: Options) -> set[str]:
    """With their dashes."""
    return {f"--{name.rstrip('=')}" for name in options.longOpt}


def zpipe_options() -> set[str]:
    """Those of the zpipe command."""
    names: set[str] = set()
    for command in (demo, dead, journal, status, top):
        parser = ArgumentParser()
        command.add_arguments(parser)
        names |= options_in(parser)
    return names


def options_in(parser: ArgumentParser) -> set[str]:
    """Those of a parser and of its subcommands."""
    names: set[str] = set()
    for action in parser._actions:
        names |= set(action.option_strings)
        if isinstance(action, _SubParsersAction):
            for subparser in action.choices.values():
                names |= options_in(subparser)
    return names


def log_formats() -> Iterator[str]:
    """Every format that is given to a logger, or to another thread's call of one."""
    for path in (ROOT / "zpipeline").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            for method, text in pairwise([call.func, *call.args]):
                if (
                    isinstance(method, ast.Attribute)
                    and method.attr in {"debug", "info", "warn", "error", "failure", "critical"}
                    and ast.unparse(method.value).endswith("log")
                    and isinstance(text, ast.Constant)
                ):
                    yield str(text.value)


def reasons_of(module: str) -> Iterator[str]:
    """The constant texts of what a link is told to give up for."""
    for node in ast.walk(ast.parse((ROOT / "zpipeline" / module).read_text())):
        wanted: list[ast.AST] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "give_up":
            wanted = list(node.args)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"self._reached", "silence", "_GIVEN_UP"}:
            wanted = [node.value]
        for value in wanted:
            for constant in ast.walk(value):
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and len(constant.value) > 6:
                    yield constant.value
