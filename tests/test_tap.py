"""The twistd plugins: their options, and the processes that they become."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import zmq
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.runtime import seconds as wall
from twisted.python.usage import Options
from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import Load, get, post
from tests.faults.rig import ROOT, TWISTD, Process, Rig, free_port, ready_workers
from tests.processes import is_gone, state_of
from zpipeline import steady
from zpipeline.errors import UsageError
from zpipeline.journal import Journal
from zpipeline.memory import Memory
from zpipeline.pipeline import DEFAULT_JOURNAL, Pipeline
from zpipeline.protocol import Hello, decode_for_worker
from zpipeline.retries import Policy
from zpipeline.tap.services import Listener

PLUGINS = ("zpipe-web", "zpipe-worker", "zpipe")
RECORD = "--handler=tests.faults.handlers:record"
RECORD_ASYNC = "--handler=tests.faults.handlers:record_async"

#: twistd as a terminal runs it: alone with its children in a process group.
GROUP = [sys.executable, "-c", "import os; os.setsid(); from twisted.scripts.twistd import run; run()", "-n"]


def parse(*words: str) -> ServerOptions:
    """The options of ``twistd WORDS``."""
    options = ServerOptions()
    options.parseOptions(list(words))
    return options


def options_of(plugin: str) -> Options:
    return parse("-n", plugin).subOptions


def listen(port: int) -> str:
    return f"--listen=tcp:{port}:interface=127.0.0.1"


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


class OptionsOfEach(SynchronousTestCase):
    """The options, parsed as twistd does."""

    def refused(self, *words: str) -> str:
        """The line with which the process ends; text for an exit status is 1, on stderr."""
        with self.assertRaises(SystemExit) as caught:
            options = parse(*words)
            maker = options.loadedPlugins[options.subCommand]
            maker.makeService(options.subOptions)
        line = caught.exception.code
        self.assertIsInstance(line, str)
        self.assertNotIn("\n", line)
        plugin = next(word for word in words if word in PLUGINS)
        self.assertEqual(line.split(":")[0], plugin)
        return line

    def test_each_bad_value_is_one_line_that_names_the_option(self) -> None:
        """What cannot be a value of an option is refused, and the line says what can."""
        bad = {
            "zpipe-worker": {
                "port": ["x", "0", "65536", "-1", "4444.0", ""],
                "concurrency": ["0", "x", "1.5", "9999999999"],
                "threads": ["-1", "x"],
                "metrics": ["0", "x", "65536"],
                "drain": ["-1", "x", "nan", "inf"],
            },
            "zpipe-web": {
                "worker": ["x", "tcp://a", "tcp://127.0.0.1:99999", "tcp://*:4444", "udp://127.0.0.1:4444", ""],
                "sink": ["x", "tcp://127.0.0.1", "tcp://127.0.0.1:0"],
                "max-pending": ["0", "x"],
                "max-body": ["0", "x", "999999999999"],
                "window": ["0", "x", "50001"],
                "journal": [""],
                "journal-sync": ["off", "", "FULL"],
                "attempts": ["0", "x", "1.5", "65536"],
                "backoff": ["", "1", "x:y", "1:", ":1", "2:1", "-1:1", "1:inf", "nan:nan", "1:2:3"],
                "timeout": ["0", "-1", "x", "inf", ""],
                "keep": ["-1", "x", "nan"],
                "drain": ["-1", "x"],
                "listen": ["nonsense", "tcp:x", "foo:80", "", "tcp:4567:foo=bar", "tcp:99999", "unix:/no/such/dir/x"],
            },
            "zpipe": {
                "workers": ["0", "x"],
                "first-port": ["0", "65536", "65535"],
                "handler": ["x", "no.such.module:x", "zpipeline.handlers:lag", "zpipeline.handlers:__name__"],
                "listen": ["tcp:4567:interface=no.such.host.invalid"],
            },
        }
        for plugin, values in bad.items():
            for option, texts in values.items():
                for text in texts:
                    line = self.refused("-n", plugin, f"--{option}={text}")
                    self.assertIn(f"--{option}", line, (plugin, option, text))

    def test_unknown_options_and_arguments_are_one_line(self) -> None:
        """An option that there is not, one without its value, and what is no option."""
        for plugin in PLUGINS:
            self.assertIn("--nonsense not recognized", self.refused("-n", plugin, "--nonsense"))
            self.assertIn("--drain requires argument", self.refused("-n", plugin, "--drain"))
            self.assertIn("unexpected argument 'extra'", self.refused("-n", plugin, "extra"))

    def test_a_daemon_does_not_wait_for_the_end_of_its_input(self) -> None:
        """--until-eof without -n would end at once."""
        self.assertIn("needs twistd's -n", self.refused("zpipe-web", "--until-eof"))

    def test_a_worker_named_twice_is_one_line(self) -> None:
        """Two connections to one worker would have two windows."""
        address = "tcp://127.0.0.1:4444"
        line = self.refused("-n", "zpipe-web", f"--worker={address}", f"--worker={address}")
        self.assertIn(f"named twice: {address}", line)

    def test_a_journal_that_would_not_be_used_is_one_line(self) -> None:
        """Who names one counts on it."""
        for plugin, flag in (("zpipe-web", "no-journal"), ("zpipe", "no-journal"), ("zpipe-web", "plain")):
            line = self.refused("-n", plugin, "--journal=mine.sqlite", f"--{flag}")
            self.assertIn(f"--journal and --{flag} contradict each other: leave one out", line)

    def test_a_backoff_the_wrong_way_round_is_one_line(self) -> None:
        """That says which of the two is the longer one."""
        self.assertIn("MAX no less than FIRST", self.refused("-n", "zpipe-web", "--backoff=5:1"))

    def test_hundreds_of_clients_may_come_at_once(self) -> None:
        """While the reactor is busy with something else."""
        port = free_port()
        listening = MemoryReactorClock()
        Listener(listening, f"tcp:{port}:interface=127.0.0.1", Factory()).bind()
        Listener(listening, f"tcp:{port}:backlog=7", Factory()).bind()
        self.assertEqual([backlog for _, _, backlog, _ in listening.tcpServers], [1024, 7])

    def test_that_it_serves_is_said_when_signals_are_heard(self) -> None:
        """The reactor runs by then: who waits for that line may ask it to leave."""
        said: list[LogEvent] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        starting = MemoryReactorClock()
        Listener(starting, "tcp:80", Factory()).startService()
        self.assertEqual(said, [])
        for call, args, kwargs in starting.whenRunningHooks:
            call(*args, **kwargs)
        self.assertEqual(list(map(formatEvent, said)), ["serving HTTP on tcp:80"])

    def test_a_port_that_needs_privileges_is_one_line(self) -> None:
        """What the system says is told, with the endpoint."""

        class Unprivileged(MemoryReactorClock):
            def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> None:
                raise CannotListenError(interface, port, PermissionError(13, "Permission denied"))

        with self.assertRaises(UsageError) as caught:
            Listener(Unprivileged(), "tcp:80", Factory()).bind()
        self.assertEqual(str(caught.exception), "cannot listen on tcp:80: permission denied")

    def test_no_pidfile_in_the_foreground_unless_it_is_named(self) -> None:
        """So that several run in one directory; a daemon has twistd's."""
        self.assertIsNone(parse("-n", "zpipe-web")["pidfile"])
        self.assertEqual(parse("-n", "--pidfile=web.pid", "zpipe-web")["pidfile"], str(Path("web.pid").absolute()))
        self.assertEqual(parse("zpipe-web")["pidfile"], str(Path("twistd.pid").absolute()))

    def pipeline(self, plugin: str, *words: str) -> Pipeline:
        """What that plugin would start as a daemon: nothing is opened or bound yet."""
        options = parse(plugin, *words)
        service = options.loadedPlugins[plugin].makeService(options.subOptions)
        return next(each for each in service if isinstance(each, Pipeline))

    def test_what_the_pipeline_is_told_it_does(self) -> None:
        """What becomes of jobs that fail, and how the journal is kept."""
        words = ["--attempts=3", "--backoff=0.5:60", "--timeout=7.5", "--keep=90", "--journal-sync=normal"]
        for plugin in ("zpipe-web", "zpipe"):
            pipeline = self.pipeline(plugin, "--journal=mine.sqlite", *words)
            self.assertEqual(pipeline._dispatcher.policy, Policy(3, 0.5, 60.0, 7.5))
            store = pipeline._jobs._store
            self.assertIsInstance(store, Journal)
            self.assertEqual((store._path, store._synchronous, store._limits.keep), ("mine.sqlite", "normal", 90.0))

    def test_what_the_pipeline_is_not_told_is_as_documented(self) -> None:
        """The defaults."""
        for plugin in ("zpipe-web", "zpipe"):
            pipeline = self.pipeline(plugin)
            self.assertEqual(pipeline._dispatcher.policy, Policy(5, 1.0, 300.0, None))
            store = pipeline._jobs._store
            self.assertEqual((store._path, store._synchronous, store._limits.keep), (DEFAULT_JOURNAL, "full", 3600.0))

    def test_without_a_journal_jobs_are_in_memory(self) -> None:
        """--no-journal says so, and --plain implies it."""
        for words in (["zpipe-web", "--no-journal"], ["zpipe", "--no-journal"], ["zpipe-web", "--plain"]):
            self.assertIsInstance(self.pipeline(*words)._jobs._store, Memory)

    def test_the_reactor_of_each_goes_by_a_clock_that_nobody_sets(self) -> None:
        """And so a pipeline and a worker need no proxy."""
        for plugin in PLUGINS:
            self.patch(reactor, "seconds", wall)
            options = parse(plugin)
            options.loadedPlugins[plugin].makeService(options.subOptions)
            self.assertIs(reactor.seconds, steady.seconds)
            self.assertIs(steady.steady(reactor), reactor)

    def test_help_has_every_option_explained_within_80_columns(self) -> None:
        """Each default is shown once."""
        self.patch(os, "environ", {**os.environ, "COLUMNS": "80"})
        for plugin in PLUGINS:
            text = str(options_of(plugin))
            self.assertIn(f"Usage: twistd [options] {plugin} [options]", text)
            self.assertLessEqual(max(map(len, text.splitlines())), 80)
            entries = re.split(r"^      (?=--)", text.split("Options:\n")[1], flags=re.MULTILINE)[1:]
            self.assertEqual(
                {entry.split()[0].strip("-=") for entry in entries}, names_of(plugin) | {"help", "version"}
            )
            for entry in entries:
                self.assertRegex(" ".join(entry.split()), r"^--[a-z-]+=? [A-Z].*[.\]]")
                self.assertLessEqual(entry.count("default"), 1, entry)

    def test_version_is_that_of_zpipeline(self) -> None:
        """And the exit status 0."""
        with redirect_stdout(StringIO()) as shown, self.assertRaises(SystemExit) as caught:
            parse("zpipe", "--version")
        self.assertEqual(caught.exception.code, 0)
        self.assertRegex(shown.getvalue(), r"^zpipeline \d+\.\d+\.\d+\n$")

    def test_the_documentation_explains_every_option_of_both_sides_and_none_that_is_not_there(self) -> None:
        """The tables of docs/options.rst are made of the options; what they say of each is written there."""
        page = (ROOT / "docs/options.rst").read_text()
        for plugin in PLUGINS:
            options = type(options_of(plugin))
            block = page.split(f".. options:: {options.__module__}.Options\n")[1]
            block = re.split(r"^\S", block, maxsplit=1, flags=re.MULTILINE)[0]
            explained = re.findall(r"^    --([a-z-]+)", block, re.MULTILINE)
            self.assertEqual(len(explained), len(set(explained)))
            if plugin == "zpipe":  # which has those of both
                self.assertLess(set(explained), names_of(plugin))
            else:
                self.assertEqual(set(explained), names_of(plugin))


def names_of(plugin: str) -> set[str]:
    """The options of a plugin."""
    return {word.rstrip("=") for word in options_of(plugin).longOpt} - {"help", "version"}


class Imports(SynchronousTestCase):
    """What importing does."""

    def run_python(self, code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_importing_zpipeline_is_light_and_installs_no_reactor(self) -> None:
        """It brings in neither Twisted's reactor nor ZeroMQ."""
        heavy = "[name for name in ('twisted', 'zmq', 'klein', 'attr') if name in sys.modules]"
        self.assertEqual(self.run_python(f"import sys, zpipeline; print({heavy})"), "[]\n")

    def test_twistd_lists_the_plugins_without_importing_what_they_run(self) -> None:
        """``twistd --help`` stays as quick as it was."""
        code = """
import atexit, sys
from twisted.scripts.twistd import run
atexit.register(lambda: print("LOADED", [n for n in sys.modules if n.partition(".")[0] in ("zpipeline", "zmq", "klein")
                                         or n == "twisted.internet.reactor"]))
sys.argv = ["twistd", "--help"]
run()
"""
        shown = self.run_python(code)
        for plugin in PLUGINS:
            self.assertRegex(shown, rf"(?m)^    {plugin}  +[A-Za-z]")
        self.assertIn("LOADED []\n", shown)


class TapCase(SynchronousTestCase):
    """Real processes."""

    def setUp(self) -> None:
        self.rig = Rig()
        self.rig.__enter__()
        self.addCleanup(self.rig.close)

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        self.rig.until(what, condition)

    def serves(self, *processes: Process) -> None:
        for process in processes:
            self.wait("it serves", lambda process=process: ready_workers(process) is not None)

    def zpipe(
        self, *options: object, workers: int, first: int | None = None, twistd: list[str] = TWISTD, seconds: float = 0
    ) -> Process:
        """Start zpipe, its first worker on port `first`; what all its workers run is recorded under its HTTP port."""
        port = free_port()
        first = first or free_port(in_a_row=workers)
        journal = [] if "--no-journal" in options else [f"--journal=journal-{port}.sqlite"]
        places = [listen(port), f"--first-port={first}", *journal]
        words = [*twistd, "zpipe", *places, f"--workers={workers}", *options]
        record = self.rig.folder / f"record-{port}"
        return self.rig.start("zpipe", words, port, RECORD=str(record), SECONDS=str(seconds))

    def pids(self, zpipe: Process) -> list[int]:
        """The workers' process ids, in the order in which they became ready."""
        return [int(pid) for pid in re.findall(r": ready \(.* process (\d+),", zpipe.log)]

    def ended_well(self, process: Process) -> None:
        self.assertEqual(process.wait(), 0, process.log)
        self.assertNotIn("Traceback", process.log)
        self.assertNotIn("are lost", process.log)
        self.assertNotIn("at once\n", process.log.split("asked again (SIGINT or SIGTERM) it leaves at once\n")[-1])


class FourTerminals(TapCase):
    """The commands of a first day, as written."""

    def test_a_web_side_and_three_workers_run_beside_each_other_in_one_directory(self) -> None:
        """The first three requests go to three workers, whose consoles show them."""
        ports = [free_port() for _ in range(3)]
        workers = [self.rig.start("worker", [*TWISTD, "zpipe-worker", "--port", port], port) for port in ports]
        web = self.rig.web(ports, f"--journal={DEFAULT_JOURNAL}")
        self.rig.until_ready(web, 3)
        for number in range(3):
            self.assertEqual(get(web.port, f"/?message-{number}")[0], 202)
        self.wait("three consoles show them", lambda: sum("message-" in worker.log for worker in workers) == 3)
        for number in range(3):
            self.assertEqual(sum(f"message-{number}" in worker.log for worker in workers), 1)
        files = {path.name for path in self.rig.folder.iterdir() if path.suffix != ".log"}
        self.assertEqual(files, {DEFAULT_JOURNAL + end for end in ("", "-wal", "-shm", ".lock")})
        self.assertIn(f"serving HTTP on tcp:{web.port}:interface=127.0.0.1\n", web.log)
        self.assertNotIn("object at 0x", web.log)
        for process in (web, *workers):
            process.signal(signal.SIGTERM)
        for process in (web, *workers):
            self.ended_well(process)

    def test_the_reactor_is_the_one_that_twistd_was_told(self) -> None:
        """-r before the command's name."""
        webs = {}
        for name in ("poll", "select", "asyncio"):
            port = free_port()
            options = [listen(port), f"--worker=tcp://127.0.0.1:{free_port()}", f"--journal={name}.sqlite"]
            webs[name] = self.rig.start(name, [*TWISTD, "-r", name, "zpipe-web", *options], port)
        self.serves(*webs.values())
        for name, web in webs.items():
            self.assertRegex(web.log, f"(?i)reactor class: twisted.internet.{name}reactor")
            self.assertEqual(post(web.port, b"")[0], 202, "the journal's thread wakes it")
            web.signal(signal.SIGTERM)
        for web in webs.values():
            self.ended_well(web)


class OneLineErrors(TapCase):
    """Errors, as a user sees them."""

    def test_each_is_one_line_on_stderr_and_exit_status_1(self) -> None:
        """Whatever was wrong, nothing else is printed."""
        handlers = {
            "absent": "import no_such_module",
            "syntax": "def f(:",
            "leaves": "raise SystemExit(3)",
            "lines": "raise ValueError('two\\nlines')",
            "number": "f = 3",
        }
        for name, text in handlers.items():
            (self.rig.folder / f"{name}.py").write_text(text)
        (self.rig.folder / "diary.txt").write_text("dear diary, " * 1000)
        (self.rig.folder / "folder.sqlite").mkdir()
        with closing(sqlite3.connect(self.rig.folder / "other.sqlite")) as connection:
            connection.execute("CREATE TABLE it (a)")
        holder = self.rig.web([free_port()], "--journal=held.sqlite")
        self.assertEqual(self.rig.web([free_port()], "--journal=later.sqlite").end(), 0)
        with closing(sqlite3.connect(self.rig.folder / "later.sqlite")) as connection:
            connection.execute("PRAGMA user_version=99")
        with taken_port() as port:
            taken = f"tcp://127.0.0.1:{port}"
            web = f"-n zpipe-web {listen(0)} --journal="
            cases = {
                f"{web}held.sqlite": f"the journal held.sqlite is in use by process {holder.popen.pid}: stop that one",
                f"{web}none/it.sqlite": "the journal none/it.sqlite: its lock ",
                f"{web}diary.txt": "the journal diary.txt: it is damaged, or no SQLite file",
                f"{web}folder.sqlite": "the journal folder.sqlite: ",
                f"{web}other.sqlite": "another program's SQLite file, not a journal: name another with --journal",
                f"{web}later.sqlite": "has schema version 99, and this zpipeline writes version 2",
                f"-n zpipe-worker --port={port}": f"{taken} cannot be bound: address already in use (choose",
                f"-n zpipe-worker --port={free_port()} --metrics={port}": f"on tcp:{port}:interface=127.0.0.1: address "
                "already in use (choose another --metrics)",
                "-n zpipe-worker --interface=nosuch0": "tcp://nosuch0:4444 cannot be bound: no such device (choose",
                "-n zpipe-worker --handler=nowhere:f": f"no module 'nowhere' in {os.path.realpath(self.rig.folder)}",
                "-n zpipe-worker --handler=absent:f": "importing 'absent' fails: absent.py:1: ModuleNotFoundError: No",
                "-n zpipe-worker --handler=syntax:f": "importing 'syntax' fails: syntax.py:1: SyntaxError",
                "-n zpipe-worker --handler=leaves:f": "importing 'leaves' fails: leaves.py:1: SystemExit: 3",
                "-n zpipe-worker --handler=lines:f": "importing 'lines' fails: lines.py:1: ValueError: two lines",
                "-n zpipe-worker --handler=number:f": "'number:f' is not callable",
                "zpipe-worker --handler=number:f": "'number:f' is not callable",
                "-n zpipe-worker --port=x": "--port 'x' is not a whole number, from 1 to 65535",
                "zpipe-worker --port=x": "--port 'x' is not a whole number, from 1 to 65535",
                f"-n zpipe-web {listen(port)}": f"on tcp:{port}:interface=127.0.0.1: address already in use",
                f"-n zpipe-web {listen(free_port())} --sink={taken}": f"{taken} cannot be bound: address already in "
                "use (choose another --sink)",
                f"-n zpipe {listen(port)}": "address already in use (choose another --listen)",
                "-n zpipe extra": "unexpected argument 'extra'",
            }
            commands = [[*TWISTD[:-1], *case.split()] for case in cases]
            with ThreadPoolExecutor(2) as pool:
                results = list(pool.map(command_result(self.rig), commands))
            for case, (status, shown, errors) in zip(cases, results, strict=True):
                self.assertEqual((status, shown), (1, ""), (case, errors))
                self.assertIn(cases[case], errors)
                self.assertRegex(errors, r"\Azpipe(-web|-worker)?: [^\n]*\n\Z", case)

    def test_a_port_that_is_taken_when_a_daemon_starts_is_told(self) -> None:
        """twistd itself sums it up, as the port is bound after it has become a daemon."""
        with taken_port() as port:
            command = [*TWISTD[:-1], "--pidfile=it.pid", "--logfile=it.log", "zpipe-worker", f"--port={port}"]
            status, _, errors = command_result(self.rig)(command)
        self.assertEqual(status, 1)
        self.assertIn(f"tcp://127.0.0.1:{port} cannot be bound: address already in use", errors)

    def test_a_journal_in_use_when_a_daemon_starts_is_told(self) -> None:
        """As it is opened after it has become a daemon."""
        holder = self.rig.web([free_port()], "--journal=held.sqlite")
        words = ["zpipe-web", listen(free_port()), "--journal=held.sqlite"]
        status, _, errors = command_result(self.rig)([*TWISTD[:-1], "--pidfile=it.pid", "--logfile=it.log", *words])
        self.assertEqual(status, 1)
        self.assertIn(f"the journal held.sqlite is in use by process {holder.popen.pid}", errors)


def command_result(rig: Rig) -> Callable[[list[str]], tuple[int, str, str]]:
    """A function that runs a command in the rig's folder: exit status, stdout and stderr."""

    def run(command: list[str]) -> tuple[int, str, str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        done = subprocess.run(command, cwd=rig.folder, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    return run


class WebOptionsReachTheirPlaces(TapCase):
    """What the web side was told is what it does."""

    def test_bounds_and_the_access_log(self) -> None:
        """--max-body, --max-pending and --access-log, over HTTP."""
        web = self.rig.web([free_port()], "--max-body=10", "--max-pending=2", "--access-log")
        self.assertEqual(post(web.port, b"x" * 11)[0], 413)
        self.assertEqual([post(web.port, b"x" * 10)[0], post(web.port, b"")[0]], [202, 202])
        status, headers, _ = post(web.port, b"")
        self.assertEqual(status, 503)
        self.assertGreaterEqual(int(headers["retry-after"]), 1)
        self.wait("four requests are in the access log", lambda: web.log.count('"POST / HTTP/1.1"') == 4)
        self.assertIn('"POST / HTTP/1.1" 413', web.log)

    def test_without_an_access_log_requests_are_not_logged(self) -> None:
        """Nor anything else that comes with each."""
        web = self.rig.web([free_port()])
        post(web.port, b"x")
        before = len(web.log.splitlines())
        for _ in range(20):
            post(web.port, b"x")
        self.assertLess(len(web.log.splitlines()) - before, 5)
        self.assertNotIn("POST", web.log)

    def test_a_worker_has_metrics_where_it_is_told(self) -> None:
        """On the loopback interface, /metrics and nothing else, until it ends."""
        port = free_port()
        worker = self.rig.worker(None, f"--metrics={port}")
        web = self.rig.web([worker.port])
        self.rig.until_ready(web, 1)
        accepted = Load(web.port, [b"a"] * 5).run(1).accepted
        self.rig.until_ran(accepted)

        def scraped() -> str:
            status, headers, text = get(port, "/metrics")
            self.assertEqual((status, headers["content-type"]), (200, "text/plain; version=0.0.4; charset=utf-8"))
            return text.decode()

        self.wait("five are done", lambda: 'zpipeline_worker_jobs_total{outcome="done"} 5.0\n' in scraped())
        text = scraped()
        for line in (
            'zpipeline_worker_jobs_total{outcome="failed"} 0.0',
            "zpipeline_worker_ventilators 1.0",
            "zpipeline_worker_waiting 0.0",
            "zpipeline_worker_running 0.0",
            "zpipeline_worker_start_seconds_count 5.0",
            'zpipeline_worker_run_seconds_bucket{le="+Inf"} 5.0',
        ):
            self.assertIn(line + "\n", text)
        self.assertIn("process_resident_memory_bytes ", text)
        self.assertEqual(get(port, "/")[0], 404)
        self.assertNotIn("GET /metrics", worker.log)
        worker.signal(signal.SIGTERM)
        self.ended_well(worker)

    def test_a_fixed_window_is_kept(self) -> None:
        """With --window 2, a worker that could run ten at once has two."""
        worker = self.rig.worker(None, handler="record_async", seconds=60)
        web = self.rig.web([worker.port], "--window=2", "--drain=0")
        self.rig.until_ready(web, 1)
        ids = Load(web.port, [b""] * 5).run(5).accepted
        self.wait("two have begun", lambda: len(self.rig.record(worker.port).begun) == 2)
        states = [json.loads(get(web.port, f"/jobs/{job_id}")[2])["state"] for job_id in ids]
        self.assertEqual(sorted(states), ["in flight"] * 2 + ["waiting"] * 3)

    def test_plain_jobs_are_one_frame(self) -> None:
        """--plain, for any PULL socket."""
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            port = pull.bind_to_random_port("tcp://127.0.0.1")
            pull.rcvtimeo = 60_000
            web = self.rig.web([port], "--plain")
            self.rig.until_ready(web, 1)
            post(web.port, b"as it is")
            self.assertEqual(pull.recv_multipart(), [b"as it is"])

    def test_workers_are_told_the_timeout_and_the_window(self) -> None:
        """--timeout and --window, in HELLO."""
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            port = pull.bind_to_random_port("tcp://127.0.0.1")
            pull.rcvtimeo = 60_000
            self.rig.web([port], "--timeout=7.5", "--window=3")
            hello = decode_for_worker(pull.recv_multipart())
            assert isinstance(hello, Hello)
            self.assertEqual((hello.timeout, hello.window), (7.5, 3))

    def test_jobs_that_fail_and_jobs_that_are_done(self) -> None:
        """--attempts, --backoff and --keep."""
        worker = self.rig.worker()
        web = self.rig.web([worker.port], "--attempts=3", "--backoff=0:0", "--keep=0")
        self.rig.until_ready(web, 1)
        failing, healing = (json.loads(post(web.port, body)[2])["id"] for body in (b"fail 3", b"fail 2"))
        self.wait("both are settled", lambda: self.rig.record(worker.port).begun.count(failing) == 3)
        self.wait("the other has run", lambda: self.rig.record(worker.port).ended == [healing])
        self.wait("it is kept no longer", lambda: get(web.port, f"/jobs/{healing}")[0] == 404)
        self.assertEqual(self.rig.record(worker.port).begun.count(healing), 3)
        status = json.loads(get(web.port, f"/jobs/{failing}")[2])
        self.assertEqual((status["state"], status["attempts"]), ("dead", 3))


class Stopping(TapCase):
    """SIGTERM and SIGINT."""

    def stopped(self, number: signal.Signals, *options: str) -> Process:
        """A web side that had accepted two jobs that nobody runs, and was then stopped."""
        web = self.rig.web([free_port()], "--drain=0.1", *options)
        for _ in range(2):
            self.assertEqual(post(web.port, b"")[0], 202)
        web.signal(number)
        return web

    def test_jobs_that_are_lost_are_told_and_make_the_exit_status_1(self) -> None:
        """Without a journal, what is not settled within --drain is."""
        for number in (signal.SIGTERM, signal.SIGINT):
            web = self.stopped(number, "--no-journal")
            self.assertEqual(web.wait(), 1, web.log)
            self.assertEqual(web.log.count("2 jobs are lost: they were not settled within 0.1 seconds"), 1)
            self.assertIn("Main loop terminated", web.log)
            self.assertNotIn("Traceback", web.log)

    def test_jobs_that_wait_in_the_journal_are_not_lost_and_run_after_the_next_start(self) -> None:
        """The exit status is 0 then."""
        for number in (signal.SIGTERM, signal.SIGINT):
            web = self.stopped(number, f"--journal=web-{number}.sqlite")
            self.ended_well(web)
            self.assertIn("2 jobs wait in the journal for the next start\n", web.log)
            worker = self.rig.worker()
            again = self.rig.web([worker.port], f"--journal=web-{number}.sqlite")
            self.assertIn("2 jobs of the journal are not settled yet\n", again.log)
            self.wait("they have run", lambda worker=worker: len(self.rig.record(worker.port).ended) == 2)

    def test_asked_again_each_ends_at_once(self) -> None:
        """The first signal says what it waits for; one more ends the process, with a line that says so."""
        worker = self.rig.worker(None, handler="record_async", seconds=600)
        web = self.rig.web([worker.port])
        self.rig.until_ready(web, 1)
        post(web.port, b"")
        self.wait("the job has begun", lambda: self.rig.record(worker.port).begun)
        for process, number in ((web, signal.SIGTERM), (worker, signal.SIGINT)):
            process.signal(number)
            self.wait("it says what it waits for", lambda process=process: "for 30 seconds at most" in process.log)
            self.assertIn("asked again (SIGINT or SIGTERM) it leaves at once\n", process.log)
            asked = time.monotonic()
            while process.alive and time.monotonic() < asked + 20:
                process.signal(number)
                time.sleep(0.1)
            self.assertEqual(process.wait(1), 128 + number)
            self.assertEqual(process.log.count("asked again: leaves at once\n"), 1)
            self.assertNotIn("Traceback", process.log)

    def test_two_signals_in_a_moment_are_one_asking(self) -> None:
        """As timeout(1) sends them, one to the process and one to its group."""
        worker = self.rig.worker(seconds=1)
        web = self.rig.web([worker.port])
        self.rig.until_ready(web, 1)
        load = Load(web.port, [b""] * 2).run()
        web.signal(signal.SIGINT)
        web.signal(signal.SIGTERM)  # another, as a second of the same kind may be one with the first
        self.ended_well(web)
        self.assertEqual(self.rig.count(load.accepted).lost, 0)

    def test_zpipe_stops_in_order_and_loses_nothing(self) -> None:
        """Asked by SIGTERM or SIGINT, alone or with its whole process group, it runs what it has accepted, once.

        Without a journal it runs all of it.
        """
        how = {
            "SIGTERM": (signal.SIGTERM, os.kill),
            "SIGTERM to the group": (signal.SIGTERM, os.killpg),
            "SIGINT to the group": (signal.SIGINT, os.killpg),
        }
        pipes = {name: self.zpipe(RECORD, "--no-journal", twistd=GROUP, workers=2, seconds=0.1) for name in how}
        for name, (number, kill) in how.items():
            zpipe = pipes[name]
            self.rig.until_ready(zpipe, 2)
            load = Load(zpipe.port, [b""] * 40).run()
            self.assertEqual(len(load.accepted), 40)
            kill(zpipe.popen.pid, number)
            self.ended_well(zpipe)
            count = self.rig.count(load.accepted)
            self.assertEqual((count.run, count.run_twice), (40, 0), name)
            self.assertEqual(len(self.pids(zpipe)), 2)
            self.assertTrue(all(map(is_gone, self.pids(zpipe))))
            order = ["leaving: waits", f"(TCP Port {zpipe.port} Closed)", "Main loop terminated"]
            self.assertEqual(sorted(order, key=zpipe.log.index), order)
            self.assertNotIn("Main loop terminated", zpipe.log.split("leaving: waits")[0])

    def test_zpipe_leaves_what_is_not_in_flight_to_its_next_start(self) -> None:
        """In its journal; nothing is lost, and nothing runs twice."""
        zpipe = self.zpipe(RECORD, workers=2, seconds=0.1)
        self.rig.until_ready(zpipe, 2)
        load = Load(zpipe.port, [b""] * 100).run()
        zpipe.signal(signal.SIGTERM)
        self.ended_well(zpipe)
        left = re.findall(r"(\d+) jobs wait in the journal for the next start\n", zpipe.log)
        self.assertEqual(left, [str(100 - len(self.rig.record(zpipe.port).ended))])
        again = self.rig.again(zpipe)
        count = self.rig.until_all_ran(load.accepted)
        self.assertEqual((count.run, count.run_twice), (100, 0))
        again.signal(signal.SIGTERM)
        self.ended_well(again)


class Zpipe(TapCase):
    """The whole pipeline in one command."""

    def test_workers_say_who_they_are_and_are_started_again_when_killed(self) -> None:
        """A worker that was killed takes part again."""
        first = free_port(in_a_row=3)
        ports = [first, first + 1, first + 2]
        zpipe = self.zpipe(workers=3, first=first)
        self.rig.until_ready(zpipe, 3)
        self.spread(zpipe, ports, "first")
        os.kill(self.pids(zpipe)[0], signal.SIGKILL)
        self.wait("it is told", lambda: re.search(r"worker \d+ has ended \(SIGKILL\), is started again", zpipe.log))
        self.wait("it is ready again", lambda: len(self.pids(zpipe)) == 4 and ready_workers(zpipe) == 3)
        self.spread(zpipe, ports, "second")
        self.assertNotIn("Traceback", zpipe.log)

    def spread(self, zpipe: Process, ports: list[int], text: str) -> None:
        """Three jobs go to three workers, which log them under their names."""
        for _ in ports:
            post(zpipe.port, text.encode())
        lines = {port: rf"\[worker {port}\] job [0-9a-f]{{32}}: {text}\n" for port in ports}
        self.wait("each logs its job", lambda: all(re.search(line, zpipe.log) for line in lines.values()))

    def test_a_worker_that_cannot_start_is_tried_again_while_the_rest_works(self) -> None:
        """Each try is one line; when what kept it is gone, it takes part."""
        with taken_port() as port:
            module = self.rig.folder / "picky.py"
            module.write_text(
                "import os\n"
                "from zpipeline.handlers import discard\n"
                "if 'ZPIPE_LOG_NAME' in os.environ and not os.path.exists('model'): raise OSError('no model here')\n"
            )
            zpipe = self.zpipe(workers=1, first=port)
            picky_port = free_port()
            picky = self.zpipe("--handler=picky:discard", workers=1, first=picky_port)
            self.says_twice(zpipe, port, f"tcp://127.0.0.1:{port} cannot be bound: address already in use (choose")
            self.says_twice(picky, picky_port, "importing 'picky' fails: picky.py:3: OSError: no model here\n")
            self.assertEqual(post(zpipe.port, b"")[0], 202)
            self.assertEqual(ready_workers(zpipe), 0)
            for log in (zpipe.log, picky.log):
                self.assertNotIn("Traceback", log)
                self.assertNotIn("has ended", log)
        (self.rig.folder / "model").touch()
        self.rig.until_ready(zpipe, 1)
        self.rig.until_ready(picky, 1)

    def says_twice(self, zpipe: Process, port: int, why: str) -> None:
        line = f"[worker {port}] cannot start, is tried again: zpipe-worker: {why}"
        self.wait("it has said twice why it cannot start", lambda: zpipe.log.count(line) >= 2)

    def test_a_worker_for_which_the_system_has_no_process_is_tried_again(self) -> None:
        """fork fails with EAGAIN, once."""
        refuse_once = (
            "import errno, os\n"
            "from twisted.internet import reactor\n"
            "spawn = reactor.spawnProcess\n"
            "def refuse(*args, **kwargs):\n"
            "    reactor.spawnProcess = spawn\n"
            "    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
            "reactor.spawnProcess = refuse\n"
            "from twisted.scripts.twistd import run\n"
            "run()\n"
        )
        zpipe = self.zpipe(workers=2, twistd=[sys.executable, "-c", refuse_once, "-n"])
        self.rig.until_ready(zpipe, 2)
        line = r"worker \d+ cannot be started, is tried again: resource temporarily unavailable\n"
        self.assertEqual(len(re.findall(line, zpipe.log)), 1)
        self.assertNotIn("Traceback", zpipe.log)
        zpipe.signal(signal.SIGTERM)
        self.ended_well(zpipe)

    def test_killed_it_takes_its_workers_with_it(self) -> None:
        """Those that are idle, those that are busy, and those that are frozen."""
        zpipe = self.zpipe(RECORD, workers=3)
        self.rig.until_ready(zpipe, 3)
        pids = self.pids(zpipe)
        for _ in range(2):
            post(zpipe.port, b"600")
        self.wait("two workers are busy", lambda: len(self.rig.record(zpipe.port).begun) == 2)
        os.kill(pids[0], signal.SIGSTOP)
        # The system goes on with what is stopped by then, not with what is about to stop.
        self.wait("one is frozen", lambda: state_of(pids[0]) in ("T", None))
        zpipe.signal(signal.SIGKILL)
        for pid in pids:
            self.addCleanup(_kill, pid)
        self.rig.until("its workers are gone", lambda: all(map(is_gone, pids)), seconds=15)


def _kill(pid: int) -> None:
    if not is_gone(pid):
        os.kill(pid, signal.SIGKILL)


class WithoutHandler(TapCase):
    """Nobody named a handler."""

    SAID = "without --handler jobs are only logged, and count as done: name what runs them, --handler=MODULE:NAME"

    def test_a_worker_says_so_once(self) -> None:
        """And not if the handler that logs was asked for."""
        command = [*TWISTD, "zpipe-worker"]
        port, other = free_port(), free_port()
        worker = self.rig.start("worker", [*command, f"--port={port}"], port)
        silent = self.rig.start("worker", [*command, f"--port={other}", "--handler=zpipeline.handlers:log"], other)
        for process in (worker, silent):
            self.wait("it listens", lambda process=process: "handler zpipeline.handlers:log" in process.log)
        self.assertEqual(worker.log.count(self.SAID), 1)
        self.assertNotIn(self.SAID, silent.log)

    def test_zpipe_says_so_once_and_its_workers_do_not(self) -> None:
        """They were told what to run."""
        zpipe = self.zpipe(workers=3)
        self.rig.until_ready(zpipe, 3)
        self.assertEqual(zpipe.log.count(self.SAID), 1)


class Daemons(TapCase):
    """Without -n."""

    def daemon(self, name: str, *words: object) -> Path:
        """Start it; its log."""
        pidfile, logfile = self.rig.folder / f"{name}.pid", self.rig.folder / f"{name}.log"
        command = [*TWISTD[:-1], f"--pidfile={pidfile}", f"--logfile={logfile}", *map(str, words)]
        status, shown, errors = command_result(self.rig)(command)
        self.assertEqual((status, shown, errors), (0, "", ""))
        self.addCleanup(lambda: pidfile.exists() and _kill(int(pidfile.read_text())))
        return logfile

    def end(self, logfile: Path) -> None:
        pidfile = logfile.with_suffix(".pid")
        pid = int(pidfile.read_text())
        os.kill(pid, signal.SIGTERM)
        self.wait("the daemon has ended", lambda: is_gone(pid))
        self.assertFalse(pidfile.exists())
        self.assertIn("Server Shut Down", logfile.read_text())
        self.assertNotIn("Traceback", logfile.read_text())

    def test_the_web_side_and_a_worker_are_daemons(self) -> None:
        """They do their work in the background, and SIGTERM ends them."""
        http, port = free_port(), free_port()
        worker = self.daemon("worker", "zpipe-worker", f"--port={port}")
        web = self.daemon("web", "zpipe-web", listen(http), f"--worker=tcp://127.0.0.1:{port}")
        self.wait("the worker is ready", lambda: _ready(http) == 1)
        self.assertEqual(post(http, b"to a daemon")[0], 202)
        self.wait("the job has run", lambda: ": to a daemon\n" in worker.read_text())
        self.end(web)
        self.end(worker)

    def test_the_whole_pipeline_is_a_daemon(self) -> None:
        """What its workers say is in its log file."""
        http, first = free_port(), free_port(in_a_row=2)
        log = self.daemon("all", "zpipe", listen(http), "--workers=2", f"--first-port={first}")
        self.wait("the workers are ready", lambda: _ready(http) == 2)
        self.assertEqual(post(http, b"to a daemon")[0], 202)
        self.wait("the job has run", lambda: re.search(r"\[worker \d+\] job .*: to a daemon\n", log.read_text()))
        self.end(log)


def _ready(port: int) -> int | None:
    try:
        return int(json.loads(get(port, "/health/ready")[2])["ready_workers"])
    except (OSError, ValueError, KeyError):
        return None
