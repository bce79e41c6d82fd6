"""``zpipe dead``, against a zpipe-web in this process and as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

from attrs import define, evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.test_web_dead import UNKNOWN, DeadTestCase, letter
from zpipeline import Job, Pipeline, Reject, Worker, cli
from zpipeline.dead import client
from zpipeline.dead.text import table
from zpipeline.errors import Draining, JournalError
from zpipeline.job import make_id
from zpipeline.web import app, make_site
from zpipeline.web.http.request import Request
from zpipeline.web.problems import nothing_here

ZPIPE = [sys.executable, "-c", "import sys; from zpipeline.cli import main; sys.exit(main())", "dead"]
EVIL = "\x1b[31mred\x07\r\n\x9b2J\u202eback"
SHOWN = r"\x1b[31mred\x07\r\n\x9b2J\u202eback"


@define
class Outcome:
    status: object
    out: str
    err: str
    raw: bytes


def run(*arguments: str) -> Outcome:
    """The command, in this process."""
    raw, err = BytesIO(), StringIO()
    out = TextIOWrapper(raw, encoding="utf-8")
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status: object = cli.main(["dead", *arguments])
        except SystemExit as exit:
            status = exit.code
        out.flush()
    return Outcome(status, raw.getvalue().decode("utf-8", "replace"), err.getvalue(), raw.getvalue())


def url_of(port: int, path: str = "") -> str:
    return f"http://127.0.0.1:{port}{path}"


class CommandTestCase(DeadTestCase):
    timeout = 60

    @property
    def url(self) -> str:
        return url_of(self.port.getHost().port)

    async def zpipe(self, command: str, *arguments: str) -> Outcome:
        """Ask this server, which goes on serving meanwhile."""
        return await deferToThread(run, command, "--url", self.url, *arguments)

    async def process(self, *arguments: str, **options: Any) -> int:
        """Ask this server from a process: its exit status."""
        environment = os.environ | {"COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen([*ZPIPE, *arguments, "--url", self.url], env=environment, **options) as process:
            return await deferToThread(process.wait)

    async def assert_fails(self, message: str, command: str, *arguments: str) -> None:
        outcome = await self.zpipe(command, *arguments)
        self.assertEqual((outcome.status, outcome.out), (1, ""))
        self.assertEqual(outcome.err, f"zpipe dead {command}: {message}\n")


class ListTests(CommandTestCase):
    async def test_there_are_none(self) -> None:
        outcome = await self.zpipe("list")
        self.assertEqual((outcome.status, outcome.out, outcome.err), (0, "no dead letters\n", ""))

    async def test_each_has_a_line_with_its_columns_below_one_another(self) -> None:
        self.put(letter(1, error="KeyError: 'width'"), letter(2, handler="m:f", error="a longer one " * 20))
        lines = (await self.zpipe("list")).out.splitlines()
        self.assertEqual(lines[0].split(), ["id", "died", "attempts", "strikes", "handler", "error"])
        self.assertEqual(lines[1].split()[0], make_id(7, 1))
        self.assertRegex(lines[1][34:53], r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
        self.assertEqual(
            (lines[1][lines[0].index("attempts") :][:8], lines[1][lines[0].index("strikes") :][:7]),
            (" " * 7 + "5", " " * 6 + "0"),
        )
        for line, (handler, error) in zip(
            lines[1:], [("photos:resize", "KeyError: 'width'"), ("m:f", "a longer one")], strict=True
        ):
            self.assertTrue(line[lines[0].index("handler") :].startswith(handler))
            self.assertTrue(line[lines[0].index("error") :].startswith(error))

    async def test_nothing_is_shortened_where_there_is_no_terminal(self) -> None:
        self.put(letter(1, handler="h" * 500, error="e" * 500))
        self.assertTrue((await self.zpipe("list")).out.endswith(f"{'h' * 500}  {'e' * 500}\n"))

    async def test_all_pages_are_listed_in_order_below_one_heading(self) -> None:
        self.patch(client, "PAGE", 3)
        self.put(*map(letter, range(1, 9)))
        lines = (await self.zpipe("list")).out.splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["id", *(make_id(7, number) for number in range(1, 9))])

    async def test_a_page_is_as_large_as_the_web_gives_them(self) -> None:
        self.assertEqual(client.PAGE, app.MAX_PAGE)

    async def test_the_first_n_only(self) -> None:
        self.patch(client, "PAGE", 3)
        self.put(*map(letter, range(1, 9)))
        for limit, count in [(1, 1), (3, 3), (4, 4), (8, 8), (100, 8)]:
            lines = (await self.zpipe("list", "--limit", str(limit))).out.splitlines()
            self.assertEqual(len(lines), 1 + count)

    async def test_json_is_one_object_a_line_with_all_that_is_known(self) -> None:
        self.put(letter(1, b"abc", error=EVIL), letter(2))
        outcome = await self.zpipe("list", "--json")
        self.assertTrue(outcome.out.replace("\n", "").isprintable())
        first, second = map(json.loads, outcome.out.splitlines())
        self.assertEqual((first["id"], first["error"], first["size"]), (make_id(7, 1), EVIL, 3))
        self.assertEqual(second["id"], make_id(7, 2))

    async def test_json_of_none_is_nothing(self) -> None:
        self.assertEqual((await self.zpipe("list", "--json")).out, "")

    async def test_no_control_character_gets_through(self) -> None:
        self.put(letter(1, error=EVIL, handler=EVIL))
        self.assertTrue((await self.zpipe("list")).out.endswith(f"{SHOWN}  {SHOWN}\n"))

    async def test_lines_are_as_wide_as_the_terminal(self) -> None:
        self.put(letter(1, error="e" * 500), letter(2, error="漢" * 500))
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        status = await self.process("list", stdout=theirs)
        os.close(theirs)
        head, one, two, _ = os.read(ours, 1 << 16).decode().replace("\r", "").split("\n")
        start = head.index("error")
        self.assertEqual((status, len(one), one[start:]), (0, 120, "e" * (119 - start) + "…"))
        self.assertEqual(two[start:].rstrip("… "), "漢" * ((119 - start) // 2))  # each is two columns wide

    async def test_who_reads_some_of_it_only_gets_no_error(self) -> None:
        self.put(*[letter(number, error="e" * 1000) for number in range(1, 501)])
        ours, theirs = os.pipe()
        os.close(ours)  # as `head` does when it has enough
        err, err_of_process = os.pipe()
        status = await self.process("list", stdout=theirs, stderr=err_of_process)
        os.close(theirs)
        os.close(err_of_process)
        with os.fdopen(err, "rb") as said:
            self.assertEqual((status, said.read()), (128 + signal.SIGPIPE, b""))


class ShowTests(CommandTestCase):
    def put_one(self, body: bytes = b"", **changes: object) -> str:
        one = evolve(letter(1, body), **changes)
        self.put(one)
        return one.summary.id

    async def test_all_is_shown(self) -> None:
        outcome = await self.zpipe("show", self.put_one(b"two\nlines\n", headers={"x-a": "b"}))
        self.assertEqual(outcome.status, 0)
        fields, _, rest = outcome.out.partition("headers\n")
        shown = dict(line.split(maxsplit=1) for line in fields.splitlines())
        self.assertEqual(
            {name: shown[name] for name in ("id", "error", "handler", "attempts", "strikes")},
            {"id": make_id(7, 1), "error": "KeyError", "handler": "photos:resize", "attempts": "5", "strikes": "0"},
        )
        self.assertRegex(shown["accepted"], r"^\d{4}-\d\d-\d\d \d\d:\d\d:40\.500[+-]\d\d:\d\d$")
        self.assertRegex(shown["died"], r"^\d{4}-\d\d-\d\d \d\d:\d\d:20\.500[+-]\d\d:\d\d$")
        self.assertEqual(
            rest,
            "    x-a: b\ntraceback\n    Traceback...\n    KeyError\nbody, 10 bytes\n    two\n    lines\n",
        )

    async def test_no_control_character_gets_through(self) -> None:
        job_id = self.put_one(EVIL.encode() + b"\xff", headers={EVIL: EVIL}, traceback=EVIL)
        out = (await self.zpipe("show", job_id)).out
        self.assertTrue(out.replace("\n", "").isprintable())
        self.assertIn(f"    {SHOWN}: {SHOWN}\n", out)
        first, _, second = SHOWN.partition(r"\n")
        self.assertEqual(out.count(f"    {first}\n    {second}"), 2)
        self.assertTrue(out.endswith(r"back\xff" + "\n"))

    async def test_the_body_alone_is_written_as_it_is(self) -> None:
        for body in (bytes(range(256)), "größer\r\n".encode(), b""):
            outcome = await self.zpipe("show", "--body", self.put_one(body))
            self.assertEqual((outcome.status, outcome.raw), (0, body))

    async def test_an_id_that_is_unknown_is_named(self) -> None:
        await self.assert_fails(f"there is no dead letter {UNKNOWN} at {self.url}", "show", UNKNOWN)
        await self.assert_fails(f"there is no dead letter ../jobs/a at {self.url}", "show", "../jobs/a")


class RetryAndDropTests(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.put_three()
        self.ids = list(self.pipeline.letters)

    async def assert_counts(self, line: str, *arguments: str) -> None:
        outcome = await self.zpipe(*arguments)
        self.assertEqual((outcome.status, outcome.out, outcome.err), (0, line + "\n", ""))

    async def test_by_their_ids(self) -> None:
        await self.assert_counts("2 retried", "retry", self.ids[2], self.ids[0])
        self.assertEqual(self.pipeline.retried, [self.ids[2], self.ids[0]])

    async def test_all(self) -> None:
        await self.assert_counts("3 retried", "retry", "--all")
        await self.assert_counts("0 retried", "retry", "--all")

    async def test_those_of_a_handler(self) -> None:
        await self.assert_counts("2 retried", "retry", "--all", "--handler", "photos:resize")
        self.assertEqual(self.pipeline.selections, [("photos:resize", None)])

    async def test_those_with_a_text_in_their_error(self) -> None:
        await self.assert_counts("1 retried", "retry", "--all", "--error", "'a&b=c d+é'")
        self.assertEqual(self.pipeline.retried, self.ids[:1])

    async def test_those_that_match_both(self) -> None:
        await self.assert_counts("1 retried", "retry", "--all", "--error", "Key", "--handler", "mail:send")
        self.assertEqual(self.pipeline.retried, self.ids[2:])

    async def test_dropped_ones_are_no_more(self) -> None:
        await self.assert_counts("2 dropped", "drop", *self.ids[:2])
        self.assertEqual((list(self.pipeline.letters), self.pipeline.retried), (self.ids[2:], []))

    async def test_the_others_are_done_when_one_is_unknown(self) -> None:
        for command, done in [("retry", "retried"), ("drop", "dropped")]:
            outcome = await self.zpipe(command, UNKNOWN, self.ids.pop(), "x")
            self.assertEqual((outcome.status, outcome.out), (1, f"1 {done}\n"))
            expected = [
                f"zpipe dead {command}: there is no dead letter {job_id} at {self.url}" for job_id in (UNKNOWN, "x")
            ]
            self.assertEqual(outcome.err.splitlines(), expected)


class UsageTests(SynchronousTestCase):
    """What makes no sense is one line that says so, and nothing is asked of anybody."""

    def assert_refused(self, message: str, *arguments: str) -> None:
        outcome = run(*arguments)
        self.assertEqual((outcome.status, outcome.out), (2, ""))
        self.assertIn(message, outcome.err)
        self.assertEqual(outcome.err.count("\n"), 1)

    def test_a_command_is_named(self) -> None:
        self.assert_refused("COMMAND")

    def test_retrying_takes_ids_or_all(self) -> None:
        for arguments in ([], ["--all", "a"], ["--handler=h"], ["--error=e"]):
            self.assert_refused("zpipe dead retry: give either ids or --all", "retry", *arguments)

    def test_a_filter_goes_with_all(self) -> None:
        for option in ("--handler=h", "--error=e"):
            self.assert_refused("--handler and --error go with --all", "retry", option, "a")

    def test_a_filter_that_is_empty_is_no_filter(self) -> None:
        for option in ("--handler=", "--error="):
            self.assert_refused("is empty: leave it out to have all", "retry", "--all", option)

    def test_dropping_takes_ids(self) -> None:
        self.assert_refused("ID", "drop")
        self.assert_refused("--all", "drop", "--all", "a")

    def test_a_limit_is_a_number(self) -> None:
        for limit in ("0", "-1", "x", "1.5", "²"):
            self.assert_refused(f"{limit!r} is not a whole number from 1 up", "list", f"--limit={limit}")

    def test_a_url_is_one_of_http(self) -> None:
        for url in (
            "",
            "127.0.0.1:4567",
            "ftp://a",
            "http://",
            "http://a:x",
            "http://a:99999",
            "http://[",
            "http://a/?b",
            "http://a#b",
            "http://u:p@a",
            "http://a b",
            "http://é",
        ):
            self.assert_refused(f"{url!r} is no URL such as http://127.0.0.1:4567", "list", f"--url={url}")


class Scripted(Protocol):
    """A server that says one thing and hangs up."""

    says = b""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(self.says)
        self.transport.loseConnection()


class TroubleTests(CommandTestCase):
    async def test_nobody_is_there(self) -> None:
        url = self.url
        await self.port.stopListening()
        why = "Connection refused: does zpipe-web serve there? (--url URL)"
        for arguments in (["list"], ["show", "a"], ["retry", "a", "b"], ["retry", "--all"], ["drop", "a", "b"]):
            outcome = await deferToThread(run, *arguments, f"--url={url}")
            self.assertEqual((outcome.status, outcome.out), (1, ""))
            self.assertEqual(outcome.err, f"zpipe dead {arguments[0]}: cannot reach {url}: {why}\n")

    async def test_the_host_has_no_name_that_can_be(self) -> None:
        outcome = await deferToThread(run, "list", f"--url=http://{'a' * 64}.example")
        self.assertEqual(outcome.status, 1)
        self.assertRegex(outcome.err, r"^zpipe dead list: cannot reach http://a+\.example: .*\n$")

    async def test_who_answers_is_somebody_else(self) -> None:
        factory = Factory.forProtocol(Scripted)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        for says in (
            b"SSH-2.0-Server\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>hello",
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<p>no",
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\nnull",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\x1b",
        ):
            Scripted.says = says
            for arguments in (["list"], ["show", "a"], ["retry", "--all"]):
                url = url_of(port.getHost().port)
                outcome = await deferToThread(run, *arguments, f"--url={url}")
                self.assertEqual((outcome.status, outcome.out), (1, ""))
                start = f"zpipe dead {arguments[0]}: what answers at {url} is no zpipe-web with dead letters: "
                self.assertTrue(outcome.err.startswith(start), outcome.err)
                self.assertTrue(outcome.err.removesuffix("\n").isprintable())

    async def test_who_answers_hangs_up_before_its_end(self) -> None:
        port = reactor.listenTCP(0, Factory.forProtocol(Scripted), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        Scripted.says = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}"
        url = url_of(port.getHost().port)
        outcome = await deferToThread(run, "list", f"--url={url}")
        self.assertEqual(outcome.err, f"zpipe dead list: {url} has hung up in the middle of an answer\n")

    async def test_nobody_answers(self) -> None:
        self.patch(client.DeadLetters, "patience", 0.2)
        self.pipeline.held = []
        await self.assert_fails(f"{self.url} does not answer", "list")
        for answer in self.pipeline.held:
            answer()

    async def test_what_the_web_refuses_is_told(self) -> None:
        self.pipeline.error = JournalError("jobs.sqlite cannot be read: \x1b[31m")
        detail = r"503: jobs.sqlite cannot be read: \x1b[31m"
        for arguments in (["list"], ["show", "a"], ["retry", "a"], ["retry", "--all"], ["drop", "a"]):
            await self.assert_fails(f"{self.url} answers {detail}", *arguments)

    async def test_what_was_done_before_the_trouble_is_counted(self) -> None:
        self.put(letter(1), letter(2))
        retry = self.pipeline.retry_dead

        def retry_once(job_id: str) -> Deferred[bool]:
            answer = retry(job_id)
            self.pipeline.error = Draining("the pipeline is being stopped")
            return answer

        self.patch(self.pipeline, "retry_dead", retry_once)
        outcome = await self.zpipe("retry", make_id(7, 1), make_id(7, 2))
        self.assertEqual((outcome.status, outcome.out), (1, "1 retried\n"))
        self.assertEqual(outcome.err, f"zpipe dead retry: {self.url} answers 503: the pipeline is being stopped\n")

    async def test_a_path_before_all_paths_is_kept(self) -> None:
        asked: list[bytes] = []

        def begin(request: Request) -> None:
            asked.append(request.uri)
            request.refuse(nothing_here())

        self.patch(Request, "begin", begin)
        url = f"{self.url}/queues/mail"
        outcome = await deferToThread(run, "list", "--url", f"{url}/", "--limit", "5")
        self.assertEqual(asked, [b"/queues/mail/dead?limit=5"])
        self.assertEqual(outcome.err, f"zpipe dead list: {url}/ answers 404: there is nothing at this path\n")


class TextTests(SynchronousTestCase):
    def test_a_narrow_terminal_still_has_some_of_the_error(self) -> None:
        row = {
            "id": make_id(7, 1),
            "settled_at": 0.0,
            "attempts": 1,
            "strikes": 0,
            "handler": "h" * 99,
            "error": "e" * 99,
        }
        _, line = table([[row]], 40)
        self.assertTrue(line.endswith(f"{'h' * 29}…  {'e' * 23}…"))


class WholeTests(TestCase):
    """With a pipeline that has a journal, and a worker whose handler rejects what it is not ready for."""

    timeout = 120

    async def test_a_letter_is_listed_shown_retried_and_dropped(self) -> None:
        ready: list[bytes] = []
        ran: list[bytes] = []

        def handler(job: Job) -> None:
            if job.body not in ready:
                raise Reject(f"not ready for {job.body!r}")
            ran.append(job.body)

        worker = Worker(reactor, handler, "tcp://127.0.0.1:*")
        worker.startService()
        self.addCleanup(worker.stopService)
        pipeline = Pipeline(reactor, [worker.address], journal=self.mktemp())
        pipeline.startService()
        self.addCleanup(pipeline.stopService)
        port = reactor.listenTCP(0, make_site(pipeline, reactor=reactor), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = url_of(port.getHost().port)

        async def zpipe(*arguments: str) -> str:
            outcome = await deferToThread(run, *arguments, f"--url={url}")
            self.assertEqual((outcome.status, outcome.err), (0, ""))
            return outcome.out

        async def state(job_id: str, *states: str) -> None:
            while True:
                status = await pipeline.job(job_id)
                if status is not None and status.state in states:
                    return
                pause: Deferred[None] = Deferred()
                reactor.callLater(0.02, pause.callback, None)
                await pause

        ids = [await pipeline.push(body, {"x-a": "b"}) for body in (b"one", b"two \xff", b"three")]
        for job_id in ids:
            await state(job_id, "dead")
        listed = [json.loads(line) for line in (await zpipe("list", "--json")).splitlines()]
        self.assertEqual([row["id"] for row in listed], ids)
        shown = await zpipe("show", ids[1])
        for line in (f"id         {ids[1]}", "    x-a: b", "attempts   1", "body, 5 bytes", r"    two \xff"):
            self.assertIn(line, shown.splitlines())
        self.assertIn("not ready for", shown)
        ready.append(b"one")
        self.assertEqual(await zpipe("retry", ids[0]), "1 retried\n")
        await state(ids[0], "done")
        ready.append(b"three")
        self.assertEqual(await zpipe("retry", "--all", "--error", "three"), "1 retried\n")
        await state(ids[2], "done")
        self.assertEqual(ran, [b"one", b"three"])
        self.assertEqual(await zpipe("drop", ids[1]), "1 dropped\n")
        self.assertEqual(await zpipe("list"), "no dead letters\n")
        self.assertEqual(len(self.flushLoggedErrors()), 0)
