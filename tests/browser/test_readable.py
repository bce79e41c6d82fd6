"""The page on a phone, in the dark, and by a screen reader."""

from __future__ import annotations

import re
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from tests.browser.case import DARK, DESKTOP, PHONE, BrowserCase
from tests.faults.load import dead_letters, post
from tests.faults.rig import Process

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOOKS: dict[str, dict[str, Any]] = {"light": DESKTOP, "dark": DARK, "phone": PHONE}

#: Milliseconds in which the page gets several snapshots.
SNAPSHOTS = 4000

SPEAKS = """() => {
    globalThis.said = [];
    const watch = new MutationObserver((changes) => {
        for (const { target } of changes) said.push(target.closest("[role], output").outerHTML);
    });
    for (const element of document.querySelectorAll("[role=status], [role=log], [role=alert], [aria-live], output")) {
        watch.observe(element, { childList: true, characterData: true, subtree: true });
    }
}"""

FIGURES = {
    "count(1234567)": "1,234,567",
    "count(null)": "\N{EN DASH}",
    "rate(0)": "0",
    "rate(0.25)": "0.3",
    "rate(1234.5)": "1,235",
    "percent(0.334)": "33 %",
    "percent(null)": "\N{EN DASH}",
    "took(null)": "\N{EN DASH}",
    "took(0.000312)": "0.312 ms",
    "took(0.0123)": "12.3 ms",
    "took(1.5)": "1.5 s",
    "took(150)": "150 s",
    "took(7500)": "2 h 5 min",
    "span(0)": "0 s",
    "span(59.9)": "59 s",
    "span(60)": "1 min",
    "span(3600)": "1 h",
    "span(11460)": "3 h 11 min",
    "span(100000)": "1 d 3 h",
    "bytes(999)": "999 B",
    "bytes(1500)": "1.5 kB",
    "bytes(1048576)": "1.05 MB",
    "cut('too long', 8)": "too long",
    "cut('too long', 7)": "too lo\N{HORIZONTAL ELLIPSIS}",
    "cutMiddle('photos:resize', 13)": "photos:resize",
    "cutMiddle('photos:resize', 12)": "photos\N{HORIZONTAL ELLIPSIS}esize",
    "several(1, 'worker', 'workers')": "1 worker",
    "several(2, 'worker', 'workers')": "2 workers",
}


class Readable(BrowserCase):
    def busy(self) -> tuple[Process, Process]:
        """A pipeline with something of everything: a load, dead letters, and a worker that is there, to be lost."""
        web, workers = self.start()
        for _ in range(4):
            post(web.port, b"fail 9")
        self.rig.until("all are dead", lambda: len(dead_letters(web.port)) == 4)
        self.load(web)
        return web, workers[1]

    def show_all(self, page: Page) -> None:
        """Open what can be opened, and wait for what takes its time."""
        page.locator("#worker-rows tr[data-state=lost]").wait_for()
        page.get_by_text("The same as a table").click()
        page.locator("#dead-table").get_by_role("button", name="Details").first.click()
        page.get_by_text("Traceback (most recent call last)").wait_for()
        page.get_by_role("textbox", name="Body").fill('{"width": 640}')
        page.get_by_role("button", name="Push").click()
        page.locator("#lookup-said", has_text="done").wait_for()

    def axe(self, page: Page) -> list[str]:
        """What axe-core finds that is serious or critical."""
        package = find_spec("axe_playwright_python")
        if package is None or package.origin is None:
            raise SkipTest("axe-core is not installed: it comes with the extra 'test'")
        page.evaluate(Path(package.origin).with_name("axe.min.js").read_text())
        found = page.evaluate("axe.run()")
        self.assertGreater(len(found["passes"]), 10)
        return [
            f"{violation['id']}: {violation['help']}: {[node['target'] for node in violation['nodes']]}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
        ]

    def test_axe_finds_nothing_serious_in_any_look(self) -> None:
        web, worker = self.busy()
        worker.signal(signal.SIGKILL)
        for look, options in LOOKS.items():
            page = self.open(web, **options)
            self.show_all(page)
            self.assertEqual(self.axe(page), [], look)
            page.get_by_role("button", name="Drop").first.click()
            page.get_by_role("dialog").wait_for()
            self.assertEqual(self.axe(page), [], f"{look}, with a question")

    def test_on_a_phone_nothing_is_wider_than_the_screen(self) -> None:
        web, worker = self.busy()
        worker.signal(signal.SIGKILL)
        page = self.open(web, **PHONE)
        self.show_all(page)
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 390)

    def test_the_dark_look_is_dark_and_the_light_one_is_not(self) -> None:
        web, _ = self.start(workers=1)
        grounds = {}
        for look in ("light", "dark"):
            page = self.open(web, **LOOKS[look])
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds[look] = max(int(part) for part in re.findall(r"\d+", ground))
        self.assertLess(grounds["dark"], 64)
        self.assertGreater(grounds["light"], 192)

    def test_nothing_speaks_while_only_numbers_move_and_a_lost_worker_does_once(self) -> None:
        web, worker = self.busy()
        page = self.open(web)
        page.locator("#dead-table").wait_for()
        page.evaluate(SPEAKS)
        page.wait_for_timeout(SNAPSHOTS)
        self.assertEqual(page.evaluate("said"), [])
        worker.signal(signal.SIGKILL)
        self.until(page, "it is said", lambda: page.evaluate("said.length") > 0)
        page.wait_for_timeout(SNAPSHOTS)
        self.assertEqual(len(page.evaluate("said")), 1)

    def test_the_parts_of_the_page_are_headed_and_the_first_key_leads_to_them(self) -> None:
        web, _ = self.start(workers=1)
        page = self.open(web)
        headings = [element.inner_text() for element in page.get_by_role("heading", level=2).all()]
        for expected in ("Now", "Jobs a second, by worker", "Latency", "Workers", "Dead letters", "Look up a job"):
            self.assertIn(expected, headings)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        self.assertEqual(page.evaluate("document.activeElement.id"), "main")

    def test_figures_are_written_as_people_read_them(self) -> None:
        web, _ = self.start(workers=1)
        page = self.open(web)
        calls = ", ".join(f"figures.{call}" for call in FIGURES)
        script = f"async () => {{ const figures = await import('/ui/format.js'); return [{calls}]; }}"
        self.assertEqual(page.evaluate(script), list(FIGURES.values()))
