"""Which requests are for us: hosts that are known, and no page of another site."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.test_web import WebTestCase
from zpipeline import web
from zpipeline.errors import UsageError
from zpipeline.tap.web import Options
from zpipeline.web.origins import Origins, hosts_of

OPENAPI = json.loads((Path(web.__file__).parent / "openapi.json").read_text())

#: Each route, with its methods.
STARTS = [
    f"{method.upper()} {path.replace('{id}', 'a').replace('{name}', 'page.js')}"
    for path, methods in OPENAPI["paths"].items()
    for method in methods
    if method in ("get", "post", "delete")
]


class HostTests(SynchronousTestCase):
    def test_loopback_names_and_addresses_are_known(self) -> None:
        known = (
            "localhost",
            "LOCALHOST:4567",
            "a.localhost",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:80",
            "10.1.2.3:4567",
        )
        for host in (*known, "[::1]", "[::1]:4567", "[fe80::1]:1", "192.0.2.7:"):
            self.assertTrue(Origins().knows(host.encode()), host)

    def test_other_names_are_not(self) -> None:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "web", "1.2.3"):
            self.assertFalse(Origins().knows(host.encode()), host)

    def test_what_is_no_host_is_not_known(self) -> None:
        for host in (
            b"",
            b"a b",
            b"localhost:x",
            b"localhost:1:2",
            b"[::1",
            b"::1",
            b"localhost, localhost",
            b"l/h",
            b"\xff",
        ):
            self.assertFalse(Origins().knows(host), host)

    def test_names_that_are_given_are_known(self) -> None:
        origins = Origins(["Jobs.example.org", "web"])
        for host in (b"jobs.example.org", b"JOBS.example.org:443", b"web:4567", b"jobs.example.org."):
            self.assertTrue(origins.knows(host), host)
        self.assertFalse(origins.knows(b"other.example.org"))

    def test_the_name_of_an_endpoint_is_one(self) -> None:
        self.assertEqual(hosts_of("tcp:4567:interface=web.example.org"), ["web.example.org"])
        self.assertEqual(hosts_of("ssl:443:privateKey=a.pem:interface=web"), ["web"])
        self.assertEqual(hosts_of("tcp:4567"), [])

    def test_what_is_remembered_has_a_bound(self) -> None:
        origins = Origins()
        for number in range(3000):
            origins._look_at(b"host%d.example" % number)
        self.assertLessEqual(len(origins._known), 1000)

    def test_an_option_that_names_no_host_is_refused(self) -> None:
        options = Options()
        options.opt_host("jobs.example.org")
        self.assertEqual(options["hosts"], ["jobs.example.org"])
        for wrong in ("http://jobs.example.org", "jobs.example.org:4567", "", "a b", "j\xf6bs"):
            self.assertIn("is not the name of a host", str(self.assertRaises(UsageError, options.opt_host, wrong)))


class RouteTests(WebTestCase):
    """Every route, over HTTP."""

    hosts = ("here", "proxied")

    async def test_none_is_for_pages_of_other_sites(self) -> None:
        self.assertGreater(len(STARTS), 15)
        for headers in (
            ("Sec-Fetch-Site: cross-site",),
            ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: image"),
            ("Sec-Fetch-Site: same-site", "Host: here"),
            ("Sec-Fetch-Site: same-site", "Host: here:4567", "Origin: http://here:8080"),
            ("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"),
            ("Host: here:4567", "Origin: http://there:4567"),
            ("Host: here:4567", "Origin: http://here"),
            ("Host: here", "Origin: null"),
            ("Origin: http://here",),
        ):
            for start in STARTS:
                self.assert_problem(await self.ask(start, *headers), 403, "a page of another site sent this")
        self.assertEqual(self.pipeline.jobs, [])

    async def test_none_is_for_names_of_others(self) -> None:
        for host in ("evil.example", "evil.example:4567", "localhost.evil.example", "a_b"):
            for start in STARTS:
                self.assert_problem(await self.ask(start, f"Host: {host}"), 421, "none of this server's names: --host")
        self.assertEqual(self.pipeline.jobs, [])

    async def test_what_is_no_host_or_two_of_them_is_refused(self) -> None:
        for hosts in (("localhost", "localhost"), ("a b",), ("",), ("me@localhost",), ("localhost:http",), ("[::1",)):
            headers = [f"Host: {host}" for host in hosts]
            self.assert_problem(await self.ask("GET /stats", *headers), 400, "Host")

    async def test_pages_of_this_one_and_other_programs_are_served(self) -> None:
        for number, headers in enumerate(
            [
                ("Sec-Fetch-Site: same-origin", "Host: proxied"),
                ("Sec-Fetch-Site: same-origin", "Host: proxied", "Origin: https://proxied"),
                ("Sec-Fetch-Site: same-site", "Host: here:4567", "Origin: http://HERE:4567"),
                ("Sec-Fetch-Site: none",),
                ("Host: here:4567", "Origin: http://HERE:4567"),
                ("Host: here",),
                ("Host: 192.0.2.7:4567",),
                ("Host: [2001:db8::1]",),
            ],
            1,
        ):
            self.assertEqual((await self.ask("GET /?x", *headers)).status, 202, headers)
            self.assertEqual(len(self.pipeline.jobs), number)

    async def test_a_client_of_http_1_0_need_not_name_a_host(self) -> None:
        connection = await self.connect()
        connection.transport.write(b"GET /health/live HTTP/1.0\r\n\r\n")
        self.assertEqual((await connection.answer()).status, 200)
