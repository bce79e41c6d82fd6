"""openapi.json: it has every route, and a running server does what it says and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.rig import ROOT, TWISTD, Rig, free_port
from zpipeline._version import __version__
from zpipeline.web.app import App

HERE = Path(__file__).with_name("openapi")
DOCUMENT: dict[str, Any] = json.loads((ROOT / "zpipeline/web/openapi.json").read_text())
METHODS = {"get", "put", "post", "delete", "patch"}
SEED = 1
EXAMPLES = 25  # of each operation, in each way in which they are made

#: What is not brought about here: it takes a full disk, or a client that is slow, or none of HTTP/1.1's.
NOT_BROUGHT_ABOUT = {"408", "431", "501", "505", "507"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and what is said of them."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & item.keys():
            yield path, method.upper(), item[method]


def references(value: object) -> Iterator[str]:
    """All that this refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


class DocumentTests(SynchronousTestCase):
    """What can be told without a server."""

    def test_it_is_openapi_3_1(self) -> None:
        OpenAPIV31SpecValidator(DOCUMENT).validate()

    def test_every_route_is_in_it_with_its_methods_and_no_other(self) -> None:
        """Routes that the router knows for any method see to methods themselves: of these the path."""
        routes: dict[str, set[str] | None] = {}
        for rule in App.app.url_map.iter_rules():
            path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
            known = routes.setdefault(path, set())
            routes[path] = None if rule.methods is None or known is None else known | rule.methods - {"HEAD", "OPTIONS"}
        described: dict[str, set[str]] = {}
        for path, method, _ in operations():
            described.setdefault(path, set()).add(method)
        self.assertEqual(described.keys(), routes.keys())
        for path, methods in routes.items():
            if methods is not None:
                self.assertEqual(described[path], methods, path)

    def test_whatever_is_described_is_referred_to(self) -> None:
        components = {f"#/components/{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}
        self.assertEqual(components, set(references(DOCUMENT)))

    def test_what_any_request_may_get_is_said_of_every_operation(self) -> None:
        for path, method, operation in operations():
            self.assertLessEqual(
                {"400", "403", "408", "413", "421", "431", "500", "501", "503", "505"},
                operation["responses"].keys(),
                path + method,
            )

    def test_http_rst_names_every_path(self) -> None:
        text = (ROOT / "docs/http.rst").read_text()
        paths = {path.replace("{job_id}", "ID").replace("{name}", "NAME") for path in DOCUMENT["paths"]}
        self.assertEqual({path for path in paths if f"``{path}``" not in text}, set())


class ServerTests(SynchronousTestCase):
    """A real process, with a journal and a worker."""

    def setUp(self) -> None:
        self.rig = Rig().__enter__()
        self.addCleanup(self.rig.close)

    def worker(self) -> int:
        port = free_port()
        handler = "tests.openapi.handler:handle"
        self.rig.start("worker", [*TWISTD, "zpipe-worker", f"--port={port}", f"--handler={handler}"], port)
        return port

    def serve(self, *options: str) -> int:
        """The port of a web side, whose worker is ready."""
        web = self.rig.web([self.worker()], *options)
        self.rig.until_ready(web, 1)
        return web.port

    def test_it_is_served_with_the_version(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.serve(), timeout=30)
        self.addCleanup(connection.close)
        connection.request("GET", "/openapi.json")
        answer = connection.getresponse()
        self.assertEqual((answer.status, answer.getheader("Content-Type")), (200, "application/json"))
        served = json.loads(answer.read())
        self.assertEqual(served.pop("info"), {**DOCUMENT["info"], "version": __version__})
        self.assertEqual(served, {name: value for name, value in DOCUMENT.items() if name != "info"})

    def test_the_server_does_what_it_says_whatever_it_is_asked(self) -> None:
        """By schemathesis: requests that follow the description, and others that do not."""
        port = self.serve()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.openapi.hooks",
            "COLUMNS": "120",
        }
        command = [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("--no-color", "--config-file", str(HERE / "schemathesis.toml")),
            *("run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--seed", str(SEED), "--max-examples", str(EXAMPLES), "--max-failures", "10"),
        ]
        done = subprocess.run(
            command, cwd=self.rig.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        said = f"{done.stdout}\n{done.stderr}"
        self.assertEqual(done.returncode, 0, said)
        self.assertIn(f"Seed: {SEED}", said)
        [tested] = re.findall(r"Tested: (\d+)", said)
        self.assertEqual(int(tested), len(list(operations())), said)
        [(generated, passed)] = re.findall(r"(\d+) generated, (\d+) passed", said)
        self.assertGreater(int(generated), 10 * int(tested))
        self.assertEqual(generated, passed)
        self.assertNotIn("Traceback", self.rig.logs())

    def test_every_answer_that_can_be_brought_about_is_as_it_is_described(self) -> None:
        seen = {*self.answers_with_a_worker(), *self.answers_without_one()}
        described = {
            (operation["operationId"], status)
            for _, _, operation in operations()
            for status in operation["responses"].keys() - NOT_BROUGHT_ABOUT
        }
        # of any route: it is enough to see each somewhere; and with a journal that cannot be read there are other tests
        general = {"400", "413", "500", "503"}
        self.assertEqual({pair for pair in described - seen if pair[1] not in general}, set())
        self.assertLessEqual(general, {status for _, status in seen})

    def answers_with_a_worker(self) -> set[tuple[str, str]]:
        """Which operation has answered with which status."""
        client = Client(self, self.serve("--max-body=2000"))
        ids = {body: client.push(body) for body in (b"bytes", b"text", b"json", b"none", b"too_large", b"wait")}
        dead = [client.push(b"reject"), client.push(b"\xff"), client.push(b"reject")]
        for job_id in (*ids.values(), *dead):
            if job_id != ids[b"wait"]:
                client.ask("result", job_id=job_id, headers={"Prefer": "wait=60"})
                client.ask("job", job_id=job_id)
        client.ask("result", job_id=ids[b"wait"])
        client.ask("job", job_id=32 * "0")
        client.ask("result", job_id=32 * "0")

        client.ask("pushQuery", "?text", headers={"Prefer": "wait=60"})
        client.ask("pushQuery", "?reject", headers={"Prefer": "wait=60"})
        client.ask("pushQuery", "?" + 2001 * "x")
        client.ask("pushQuery", "?wait")
        client.ask("push", body=b"json", headers={"Prefer": "wait=60"})
        client.ask("push", body=b"reject", headers={"Prefer": "wait=60"})
        client.ask("push", body=b"too_large", headers={"Prefer": "wait=60"})
        client.ask("pushQuery", "?too_large", headers={"Prefer": "wait=60"})
        client.ask("push", body=2001 * b"x")
        client.ask("push", headers={"Idempotency-Key": "a b"})
        client.ask("push", body=b"a", headers={"Idempotency-Key": "k"})
        client.ask("push", body=b"b", headers={"Idempotency-Key": "k"})

        client.ask("pushBatch", body=b'{}\n"a"\n', headers={"Content-Type": "application/x-ndjson"})
        client.ask("pushBatch", body=b"no", headers={"Content-Type": "application/x-ndjson"})
        client.ask("pushBatch", body=b"{}", headers={"Content-Type": "application/json"})

        client.ask("deadLetters", "?limit=2")
        client.ask("deadLetters", f"?after={dead[1]}")
        client.ask("deadLetters", "?limit=0")
        for job_id in (*dead[:2], 32 * "0"):
            client.ask("deadLetter", job_id=job_id)
        client.ask("retryDeadLetter", job_id=dead[0])
        client.ask("retryDeadLetter", job_id=32 * "0")
        client.ask("retryDeadLetters", "?error=told")
        for _, _, operation in operations():
            for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
                client.ask(operation["operationId"], job_id=dead[1], name="icon.svg", headers=headers)
        client.ask("dropDeadLetter", job_id=dead[1])
        client.ask("result", job_id=dead[1], headers={"Prefer": "wait=60"})
        client.ask("dropDeadLetter", job_id=dead[1])
        client.ask("dropDeadLetter", job_id=dead[1])

        for name in ("stats", "workers", "metrics", "live", "ready", "openapi", "events"):
            client.ask(name)
        client.ask("metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        tag = client.ask("page")[0]["ETag"]
        client.ask("page", headers={"If-None-Match": tag})
        tag = client.ask("fileOfPage", name="icon.svg")[0]["ETag"]
        client.ask("fileOfPage", name="icon.svg", headers={"If-None-Match": tag})
        client.ask("fileOfPage", name="unknown")
        return client.seen

    def answers_without_one(self) -> set[tuple[str, str]]:
        """With room for one job, and no worker."""
        client = Client(self, self.rig.web([free_port()], "--max-pending=1").port)
        job_id = client.push(b"a")
        client.ask("result", job_id=job_id)
        client.ask("result", job_id=job_id, headers={"Prefer": "wait=1"})
        client.ask("push", body=b"b")
        client.ask("pushQuery")
        client.ask("pushBatch", body=b"{}", headers={"Content-Type": "application/x-ndjson"})
        client.ask("ready")
        client.ask("workers")
        return client.seen


class Client:
    """Asks, and sees that what is answered is what is described.

    :ivar seen: which operation has answered with which status.
    """

    def __init__(self, case: SynchronousTestCase, port: int) -> None:
        self._case = case
        self._port = port
        self._operations = {operation["operationId"]: (path, method) for path, method, operation in operations()}
        self.seen: set[tuple[str, str]] = set()

    def push(self, body: bytes) -> str:
        """The id of a job of this body."""
        job_id: str = json.loads(self.ask("push", body=body)[1])["id"]
        return job_id

    def ask(
        self,
        operation: str,
        query: str = "",
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        **path: str,
    ) -> tuple[Message, bytes]:
        """The headers and the content of an answer; of an endless one the first event."""
        template, method = self._operations[operation]
        connection = HTTPConnection("127.0.0.1", self._port, timeout=90)
        try:
            connection.request(method, template.format(**path) + query, body, headers or {})
            answer = connection.getresponse()
            is_endless = answer.getheader("Content-Type") == "text/event-stream"
            content = first_event(answer) if is_endless else answer.read()
        finally:
            connection.close()
        self.seen.add((operation, str(answer.status)))
        said = resolved(DOCUMENT["paths"][template][method.lower()]["responses"].get(str(answer.status)))
        what = f"{operation} {path} {query}: {answer.status} {content[:500]!r}"
        self._case.assertIsNotNone(said, f"not described: {what}")
        self._check_headers(said, answer, what)
        if "content" in said:
            self._check_content(said["content"], answer.headers.get_content_type(), content, what)
        else:
            self._case.assertEqual(content, b"", what)
        return answer.headers, content

    def _check_headers(self, said: Any, answer: HTTPResponse, what: str) -> None:
        for name, header in said.get("headers", {}).items():
            value, header = answer.getheader(name), resolved(header)
            if value is None:
                self._case.assertFalse(header.get("required"), f"without {name}: {what}")
            else:
                is_number = header["schema"]["type"] == "integer"
                self._check(header["schema"], int(value) if is_number else value, what)

    def _check_content(self, said: Any, content_type: str, content: bytes, what: str) -> None:
        self._case.assertIn(content_type, said, what)
        schema = said[content_type]["schema"]
        if content_type.endswith("json"):
            self._check(schema, json.loads(content), what)
        elif content_type == "text/event-stream":
            event = dict(line.split(": ", 1) for line in content.decode().splitlines() if line)
            self._check(schema, event, what)
            data = resolved(schema)["properties"]["data"]["contentSchema"]
            self._check(data, json.loads(event["data"]), what)

    def _check(self, schema: Any, value: object, what: str) -> None:
        errors = OAS31Validator({**schema, "components": DOCUMENT["components"]}).iter_errors(value)
        self._case.assertEqual([error.message for error in errors], [], what)


def resolved(value: Any) -> Any:
    """This, or what it refers to."""
    while value is not None and "$ref" in value:
        _, _, kind, name = value["$ref"].split("/")
        value = DOCUMENT["components"][kind][name]
    return value


def first_event(answer: HTTPResponse) -> bytes:
    """The first event of an endless answer that has data."""
    event = b""
    while b"data: " not in event or not event.endswith(b"\n\n"):
        event += answer.readline()
    return event
