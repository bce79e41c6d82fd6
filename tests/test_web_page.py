"""The files of the page, GET /ui, over HTTP."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

from tests.test_web import Answer, WebTestCase
from zpipeline.web import page

FOLDER = Path(page.__file__).parent / "ui"


class References(HTMLParser):
    """What a page refers to, and what it brings with it that a strict policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: list[str] = []
        self.inline: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._script = tag == "script" and "src" not in given
        if tag in ("script", "link", "img"):
            self.files += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" else []

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


class PageTests(WebTestCase):
    async def file(self, path: str, *headers: str) -> Answer:
        answer = await self.ask(f"GET {path}", *headers)
        self.assertEqual(answer.status, 200)
        return answer

    async def references(self) -> References:
        return References((await self.file("/ui")).body.decode())

    async def test_it_is_html_that_may_do_nothing_but_use_this_server(self) -> None:
        answer = await self.file("/ui")
        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        self.assertEqual(
            policy,
            {
                "default-src": "'none'",
                "script-src": "'self'",
                "style-src": "'self'",
                "connect-src": "'self'",
                "img-src": "'self' data:",
                "base-uri": "'none'",
                "form-action": "'none'",
                "frame-ancestors": "'none'",
            },
        )

    async def test_each_file_that_it_names_is_served_as_what_it_is(self) -> None:
        kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
        files = (await self.references()).files
        self.assertIn("ui/page.js", files)
        for name in files:
            answer = await self.file(f"/{name}")
            self.assertEqual(answer.headers["content-type"].partition(";")[0], kinds[Path(name).suffix], name)
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertTrue(answer.body, name)

    async def test_each_module_that_a_module_imports_is_served(self) -> None:
        imported = {
            name
            for path in FOLDER.glob("*.js")
            for name in re.findall(r'^import .*?"\./([\w.]+)"', path.read_text(), re.M)
        }
        self.assertGreater(len(imported), 5)
        for name in imported:
            await self.file(f"/ui/{name}")

    async def test_nothing_in_it_is_inline(self) -> None:
        self.assertEqual((await self.references()).inline, [])

    async def test_it_names_no_other_host_and_no_path_from_the_root(self) -> None:
        """So it works behind a proxy that serves it below a prefix."""
        self.assertEqual([name for name in (await self.references()).files if re.match(r"/|\w+:", name)], [])

    def test_what_is_shown_is_text_and_never_markup(self) -> None:
        for path in FOLDER.glob("*.js"):
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
                self.assertNotIn(word, path.read_text(), path.name)

    async def test_charts_are_drawn_by_the_library_that_the_package_brings(self) -> None:
        answer = await self.file("/ui/chart.js")
        self.assertRegex(answer.body[:100], rb"Chart\.js v4")

    async def test_a_file_that_has_not_changed_is_not_sent_again(self) -> None:
        tag = (await self.file("/ui/page.css")).headers["etag"]
        answer = await self.ask("GET /ui/page.css", f'if-none-match: "other", W/{tag}')
        self.assertEqual((answer.status, answer.body), (304, b""))
        self.assertEqual(answer.headers["etag"], tag)
        self.assertNotIn("content-length", answer.headers)
        self.assertEqual((await self.ask("GET /ui/page.css", 'if-none-match: "other"')).status, 200)

    async def test_it_is_asked_for_each_time(self) -> None:
        self.assertEqual((await self.file("/ui")).headers["cache-control"], "no-cache")

    async def test_a_client_that_can_unzip_gets_less(self) -> None:
        plain = await self.file("/ui/chart.js")
        zipped = await self.file("/ui/chart.js", "accept-encoding: br, gzip")
        self.assertEqual(zipped.headers["content-encoding"], "gzip")
        self.assertEqual(gzip.decompress(zipped.body), plain.body)
        self.assertLess(len(zipped.body), len(plain.body) // 4)
        self.assertNotEqual(zipped.headers["etag"], plain.headers["etag"])
        self.assertEqual((plain.headers["vary"], zipped.headers["vary"]), ("Accept-Encoding", "Accept-Encoding"))

    async def test_nothing_else_is_there(self) -> None:
        for path in ("/ui/", "/ui/missing.js", "/ui/..", "/ui/../app.py", "/ui/ui/page.js", "/ui/.", "/ui/%2e%2e"):
            self.assert_problem(await self.ask(f"GET {path}"), 404)

    async def test_it_is_only_read(self) -> None:
        for path in ("/ui", "/ui/page.css"):
            answer = await self.post(path, b"x")
            self.assert_problem(answer, 405)
            self.assertEqual(answer.headers["allow"], "GET, HEAD")

    async def test_head_has_the_headers_alone(self) -> None:
        answer = await self.ask("HEAD /ui")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["content-length"], str(len((await self.file("/ui")).body)))
