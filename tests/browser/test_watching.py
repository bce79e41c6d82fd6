"""What one sees on the page while the pipeline works, and while parts of it go."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from tests.browser.case import SERVER_GONE, BrowserCase
from tests.faults.load import post, request
from tests.faults.rig import Process

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

#: Milliseconds within which a worker that is killed is shown as lost, and one that freezes: two and four seconds, and
#: as much again for a machine that is busy.
KILLED, FROZEN = 4000, 8000

#: How many colours the chart has much of.
PAINTED = """() => {
    const plot = document.getElementById("plot");
    const copy = Object.assign(document.createElement("canvas"), { width: plot.width, height: plot.height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(plot, 0, 0);
    const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
    const colours = new Map();
    for (let i = 0; i < pixels.length; i += 4) {
        if (pixels[i + 3] < 250) continue;
        const colour = `${pixels[i]} ${pixels[i + 1]} ${pixels[i + 2]}`;
        colours.set(colour, (colours.get(colour) ?? 0) + 1);
    }
    return [...colours.values()].filter((count) => count > 100).length;
}"""

COUNTS_STREAMS = """
globalThis.streams = 0;
globalThis.EventSource = class extends EventSource {
    constructor(...all) { super(...all); streams += 1; }
    close() { super.close(); streams -= 1; }
};
"""

SEEN = """(seen) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => !seen });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def row_of(page: Page, worker: Process) -> Locator:
    """The row of this worker."""
    return page.locator("#worker-rows tr", has_text=f"127.0.0.1:{worker.port}")


def number(locator: Locator) -> float:
    """The number that it shows."""
    found = re.match(r"[\d,.]+", locator.inner_text())
    return float(found[0].replace(",", "")) if found else 0.0


class Watching(BrowserCase):
    def test_the_figures_follow_the_load(self) -> None:
        web, workers = self.start()
        page = self.open(web)
        accepted = page.locator("[data-note=accepted]")
        self.load(web)
        self.until(page, "hundreds are accepted", lambda: number(accepted) > 300)
        before = number(accepted)
        self.until(page, "more are accepted", lambda: number(accepted) > before)
        self.until(page, "a rate", lambda: number(page.locator("[data-figure=settled]")) > 10)
        for worker in workers:
            row = row_of(page, worker)
            self.until(page, "each worker works", lambda row=row: number(row.locator("[data-part=rate]")) > 1)
            self.until(page, "and has a share", lambda row=row: number(row.locator("[data-part=share]")) > 10)
            self.assertIn(f"pid {worker.popen.pid}", row.inner_text())
        self.until(page, "latency", lambda: "ms" in page.locator("[data-latency=settle]").inner_text())

    def test_the_chart_has_an_area_for_each_worker_and_is_a_table_too(self) -> None:
        web, workers = self.start()
        page = self.open(web)
        self.load(web)
        self.until(page, "three areas are painted", lambda: page.evaluate(PAINTED) >= 3)
        page.get_by_text("The same as a table").click()
        for worker in workers:
            row = page.locator("#throughput-table tbody tr", has_text=str(worker.port))
            self.until(page, "a row has figures", lambda row=row: number(row.locator("td").first) > 1)
        self.until(
            page, "a sentence has them", lambda: "jobs a second by 3" in str(page.text_content("#throughput-summary"))
        )

    def test_a_worker_that_is_killed_is_lost_and_is_ready_once_it_is_back(self) -> None:
        web, workers = self.start()
        page = self.open(web)
        self.load(web)
        row = row_of(page, workers[1])
        row.get_by_text("ready").wait_for()
        workers[1].signal(signal.SIGKILL)
        row.get_by_text("lost", exact=True).wait_for(timeout=KILLED)
        page.locator("[data-figure=workers]", has_text="2 of 3").wait_for()
        page.locator("#log li", has_text=f"127.0.0.1:{workers[1].port} is lost").wait_for()
        self.rig.again(workers[1])
        row.get_by_text("ready").wait_for(timeout=30_000)
        page.locator("#log li", has_text=f"127.0.0.1:{workers[1].port} is ready").wait_for()

    def test_a_worker_that_freezes_is_lost_and_is_ready_once_it_thaws(self) -> None:
        web, workers = self.start()
        page = self.open(web)
        self.load(web)
        row = row_of(page, workers[2])
        row.get_by_text("ready").wait_for()
        workers[2].signal(signal.SIGSTOP)
        row.get_by_text("lost", exact=True).wait_for(timeout=FROZEN)
        workers[2].signal(signal.SIGCONT)
        row.get_by_text("ready").wait_for(timeout=30_000)

    def test_handlers_that_differ_are_said_until_they_do_not(self) -> None:
        workers = [self.rig.worker(), self.rig.worker(handler="echo")]
        web = self.rig.web([worker.port for worker in workers])
        self.rig.until_ready(web, 2)
        page = self.open(web)
        said = page.locator("#workers-differ")
        said.get_by_text("tests.faults.handlers:record (1 worker), tests.faults.handlers:echo (1 worker).").wait_for()
        workers[1].end()
        self.until(page, "they do not differ", lambda: not said.inner_text())

    def test_how_long_a_job_has_waited_is_told_and_what_a_lost_worker_held(self) -> None:
        web, [worker] = self.start(workers=1)
        page = self.open(web)
        for _ in range(3):  # one runs, one is at the worker, and one waits
            post(web.port, b"600")
        page.locator("[data-note=waiting]", has_text="the oldest for").wait_for()
        worker.signal(signal.SIGKILL)
        self.rig.again(worker)
        counts = page.locator("#counts")
        self.until(page, "one is handed out again", lambda: "1, 1 of lost workers" in (counts.text_content() or ""))

    def test_refusals_are_counted_by_their_reason(self) -> None:
        web, _ = self.start("--max-body=10")
        page = self.open(web)
        self.assertEqual(request(web.port, "GET", "/?" + "x" * 11)[0], 413)
        page.locator("[data-note=refused]", has_text="too large 1").wait_for()

    def test_a_web_side_that_ends_is_said_to_and_found_again(self) -> None:
        self.expected = (SERVER_GONE,)
        web, _ = self.start()
        page = self.open(web)
        web.end()
        page.locator("#notice", has_text="No word from zpipe-web since").wait_for()
        page.locator("#stream", has_text="no connection").wait_for()
        again = self.rig.again(web)
        page.locator("#stream", has_text="live").wait_for(timeout=30_000)
        page.locator("#notice").wait_for(state="hidden")
        page.locator("#process", has_text=f"pid {again.popen.pid}").wait_for()

    def test_a_web_side_that_says_nothing_is_said_to(self) -> None:
        web, _ = self.start()
        page = self.open(web)
        web.signal(signal.SIGSTOP)
        page.locator("#stream", has_text="silent").wait_for()
        web.signal(signal.SIGCONT)
        page.locator("#stream", has_text="live").wait_for(timeout=30_000)

    def test_a_page_that_nobody_sees_lets_its_connection_go_and_takes_it_up_again(self) -> None:
        web, _ = self.start(workers=1)
        page = self.open(web)
        page.add_init_script(COUNTS_STREAMS)
        page.clock.install()
        page.reload()
        page.locator("#stream", has_text="live").wait_for()
        page.evaluate(SEEN, False)
        page.clock.run_for(65_000)
        self.assertEqual(page.evaluate("streams"), 0)
        post(web.port, b"meanwhile")
        page.evaluate(SEEN, True)
        page.locator("[data-note=accepted]", has_text="1 in all").wait_for()
        self.assertEqual(page.evaluate("streams"), 1)
        self.assertEqual(page.locator("#log li").count(), 0)
