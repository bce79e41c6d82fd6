"""Tests that have a pipeline of real processes, and a browser that looks at its page.

Playwright drives Chromium, headless, without the reactor: nothing of these tests runs in it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from shutil import which
from threading import Event
from typing import TYPE_CHECKING, Any
from unittest import SkipTest
from urllib.parse import urlsplit

from tests.faults.case import RigCase
from tests.faults.load import Load, dead_letters, request
from tests.faults.rig import TWISTD, Process, free_port

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
DARK = {**DESKTOP, "color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

#: What the browser itself says when the server is gone: no error of the page.
SERVER_GONE = "Failed to load resource: net::ERR_"

#: Milliseconds within which what is waited for shows, on a machine that is busy with other things.
SOON = 10_000


class BrowserCase(RigCase):
    """With a browser; whatever page it has, nothing goes wrong there and nobody else is asked.

    :ivar complaints: of pages: errors and warnings of their console, exceptions, violations of their policy, requests
        to anyone but their own server. A test ends with none.
    :ivar expected: how those lines of a console begin that belong to the test.
    """

    def setUp(self) -> None:
        program = next(filter(None, map(which, BROWSERS)), None)
        if program is None:
            raise SkipTest("no Chromium is installed")
        if find_spec("playwright") is None:
            raise SkipTest("Playwright is not installed: it comes with the extra 'test'")
        from playwright.sync_api import sync_playwright

        super().setUp()
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()
        playwright = sync_playwright().start()
        self.addCleanup(playwright.stop)
        self.browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        self.addCleanup(self.browser.close)

    def tearDown(self) -> None:
        self.assertEqual(self.complaints, [])

    # The pipeline

    def start(self, *options: object, workers: int = 3) -> tuple[Process, list[Process]]:
        """A web side and its workers, all ready. Unless the options say otherwise, a job is tried once."""
        pool = self.rig.pool(workers)
        web = self.rig.web([worker.port for worker in pool], *(options or ("--attempts=1",)))
        self.rig.until_ready(web, workers)
        return web, pool

    def start_with(self, source: str, name: str, *, workers: int = 3) -> tuple[Process, list[Process]]:
        """The same with a handler of one's own: MODULE:NAME, and the source of its module."""
        (self.rig.folder / f"{name.partition(':')[0]}.py").write_text(source)
        pool = []
        for port in (free_port() for _ in range(workers)):
            command = [*TWISTD, "zpipe-worker", f"--port={port}", f"--handler={name}"]
            pool.append(self.rig.start("worker", command, port))
        web = self.rig.web([worker.port for worker in pool], "--attempts=1")
        self.rig.until_ready(web, workers)
        return web, pool

    def load(self, web: Process) -> Load:
        """Some hundred jobs a second, until the test ends."""
        stop = Event()

        def bodies() -> Iterator[bytes]:
            for number in itertools.count():
                if stop.wait(0.005):
                    return
                yield b"job %d" % number

        load = Load(web.port, bodies()).start(1)
        self.addCleanup(load.join)
        self.addCleanup(stop.set)
        return load

    # The browser

    def context(self, **options: Any) -> BrowserContext:
        """Something like a user of their own: a window of this size, these colours."""
        context = self.browser.new_context(**(options or DESKTOP))
        context.set_default_timeout(SOON)
        self.addCleanup(context.close)
        return context

    def open(self, web: Process, **options: Any) -> Page:
        """The page of this web side, once it has its first figures."""
        page = self.context(**options).new_page()
        origin = f"http://127.0.0.1:{web.port}"

        def request(made: Any) -> None:
            parts = urlsplit(made.url)
            if f"{parts.scheme}://{parts.netloc}" != origin:
                self.complaints.append(f"asks {made.url}")

        def console(message: Any) -> None:
            if message.type in ("error", "warning") and not message.text.startswith(self.expected):
                self.complaints.append(f"{message.type}: {message.text}")

        page.on("request", request)
        page.on("console", console)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.goto(f"{origin}/ui")
        page.locator("#stream", has_text="live").wait_for()
        return page

    def until(self, page: Page, what: str, condition: Callable[[], object]) -> None:
        """Wait until it is so, while the page goes on."""
        deadline = time.monotonic() + SOON / 1000
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"not within {SOON / 1000:g} seconds: {what}\n{self.rig.logs()}")
            page.wait_for_timeout(50)


class DeadLetterCase(BrowserCase):
    """Tests of dead letters.

    :ivar web: the web side, which `setUp` starts.
    """

    web: Process

    def kill(self, body: bytes, headers: str = "") -> str:
        """Push a job, and wait until it is dead: its id."""
        status, _, answer = request(self.web.port, "POST", "/", body, headers)
        self.assertEqual(status, 202, answer)
        job_id: str = json.loads(answer)["id"]
        self.rig.until("it is dead", lambda: job_id in dead_letters(self.web.port))
        return job_id

    def row_of(self, page: Page, job_id: str) -> Locator:
        """What the page has of this dead letter."""
        return page.locator(f'#dead-table tbody[data-key^="{job_id}"]')
