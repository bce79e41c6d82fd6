"""The page at its worst: names, errors, headers, bodies and results that are long."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser.case import DeadLetterCase
from tests.faults.load import get
from tests.faults.rig import TWISTD, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

#: Characters of a name, an error, a value; and bytes of a body or a result that are many.
LONG, HUGE = 300, 1_000_000

#: Pixels; from 1121 on, rows of tables are no cards.
WIDTHS = (390, 600, 768, 769, 1024, 1120, 1121, 1280, 1920)

MODULE = "m" * 40
FUNCTION = f"begins_{'f' * (LONG - 53)}_ends"
HANDLER = f"{MODULE}:{FUNCTION}"
ADDRESS = f"{'a' * (LONG - 8)}.ends:4444"

#: A job whose body begins with "give" returns so much. Others fail, with a traceback that has a long line.
SOURCE = f"""
def {FUNCTION}(job):
    if job.body.startswith(b"give a line"):
        return "r" * {HUGE}
    if job.body.startswith(b"give lines"):
        return "r\\n" * {HUGE // 2}
    if job.body.startswith(b"give bytes"):
        return bytes({HUGE})
    raise ValueError("{"e" * LONG}")
"""

#: What is wider than the window, if anything is. What scrolls in itself is not.
TOO_WIDE = """() => {
    const { scrollWidth } = document.documentElement;
    if (scrollWidth <= innerWidth) return [];
    const all = [...document.querySelectorAll("body *")];
    const over = all.filter((each) => each.getBoundingClientRect().right > innerWidth).slice(0, 10);
    return [`${scrollWidth} pixels`, ...over.map((each) => `${each.tagName}#${each.id}.${each.className}`)];
}"""

#: How many characters of an element's text can be seen.
SEEN = """(element) => {
    const box = element.getBoundingClientRect();
    const text = document.createTreeWalker(element, NodeFilter.SHOW_TEXT).nextNode();
    const range = document.createRange();
    let seen = 0;
    for (let at = 0; at < text.length; at++) {
        range.setStart(text, at);
        range.setEnd(text, at + 1);
        const character = range.getBoundingClientRect();
        if (character.right <= Math.min(box.right, innerWidth) + 1 && character.bottom <= box.bottom + 1) seen += 1;
    }
    return seen;
}"""


def headers(*, many: bool) -> str:
    """As long as requests may be: a name and a value that are long, or hundreds of them."""
    lines = {f"X-{number}": "v" * 20 for number in range(400)} if many else {f"X-{'n' * LONG}": "v" * LONG}
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items())


class Long(DeadLetterCase):
    def setUp(self) -> None:
        super().setUp()
        (self.rig.folder / f"{MODULE}.py").write_text(SOURCE)
        port = free_port()
        self.rig.start("worker", [*TWISTD, "zpipe-worker", f"--port={port}", f"--handler={HANDLER}"], port)
        self.web = self.rig.web([port, f"tcp://{ADDRESS}"], "--attempts=1")
        self.rig.until_ready(self.web, 1)

    def unfold(self, page: Page, job_id: str) -> Locator:
        """Its details, shown."""
        row = self.row_of(page, job_id)
        row.get_by_role("button", name="Details").click()
        row.locator("tr.whole").wait_for()
        return row

    def push(self, page: Page, body: str) -> str:
        """Push a test job, and wait for its result: its id."""
        page.get_by_role("textbox", name="Body").fill(body)
        with page.expect_response(lambda answer: answer.request.method == "POST") as accepted:
            page.get_by_role("button", name="Push").click()
        job_id: str = accepted.value.json()["id"]
        # What an earlier job gave is hidden as soon as this one is looked up.
        page.wait_for_function("id => document.querySelector('#lookup').elements.id.value === id", arg=job_id)
        page.locator("#lookup-type").wait_for()
        return job_id

    def download(self, page: Page, part: Locator) -> tuple[str, bytes]:
        """What its button saves: the name of the file, and its content."""
        with page.expect_download() as saved:
            part.get_by_role("button", name="Download all").click()
        return saved.value.suggested_filename, Path(saved.value.path()).read_bytes()

    def open_at_its_worst(self) -> Page:
        """The page with all that a snapshot can have of long texts and large numbers.

        What machines are called and what is wrong with a disk is not a test's to choose: that is put into snapshots.
        """
        page = self.open(self.web)
        stats = json.loads(get(self.web.port, "/stats")[2])
        workers = json.loads(get(self.web.port, "/workers")[2])["workers"]
        worst = stats | {"host": "h" * LONG, "accepting": False, "trouble": "t" * LONG, "version": "1" * 40}
        worst |= dict.fromkeys(("accepted", "done", "dead", "waiting", "in_flight", "dead_letters"), 1_234_567_890)
        worst["refused"] = dict.fromkeys(stats["refused"], 123_456_789)
        worst["rates"] = {"accepted": 123_456, "settled": 123_456}
        large = {"done": 1_234_567_890, "failed": 12_345_678, "returned": 12_345_678, "rate": 12_345, "share": 1}
        for worker in workers:
            worker |= large | {"in_flight": 50_000, "window": 50_000}
            times = dict.fromkeys(("p50", "p90", "p99"), 0.123)
            worker["latency"] = {"start": times, "run": times}
        workers[0] |= {"host": "h" * LONG, "version": "1" * LONG, "why": "w" * LONG}
        answers = itertools.chain([[stats, worst]], itertools.repeat([worst]))

        def answer(route: Any) -> None:
            events = [json.dumps({"stats": stats, "workers": workers}) for stats in next(answers)]
            text = "".join(f"event: snapshot\ndata: {event}\n\n" for event in events)
            route.fulfill(content_type="text/event-stream", body=f"retry: 300\n\n{text}")

        page.route("**/events", answer)
        page.reload()
        page.locator("#log", has_text="t" * LONG).wait_for()
        return page

    def resized(self, page: Page, widths: Iterable[int] = WIDTHS) -> Iterator[int]:
        """Make the window as wide as each of these."""
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            yield width

    def assert_fits(self, page: Page, what: str, widths: Iterable[int] = WIDTHS) -> None:
        """Nothing of the page is beyond its window, however wide that is."""
        for width in self.resized(page, widths):
            self.assertEqual(page.evaluate(TOO_WIDE), [], f"{what}, at {width} pixels")

    def test_nothing_is_wider_than_the_window(self) -> None:
        ids = [
            self.kill(b"x" * HUGE, headers(many=False)),
            self.kill(b"many lines\n" * (HUGE // 11), headers(many=True)),
            self.kill(b"\xff" * HUGE),
        ]
        page = self.open_at_its_worst()
        page.get_by_text("The same as a table").click()
        for job_id in ids:
            self.unfold(page, job_id)
        self.push(page, "give a line")
        self.assert_fits(page, "all of it")
        self.push(page, "give lines")
        self.assert_fits(page, "a result of many lines", (390, 1280))
        page.get_by_label("Error has the text").fill("e" * LONG)
        page.get_by_label("Handler").fill(HANDLER)
        for opens in ("Drop", "Retry all that match"):
            page.get_by_role("button", name=opens).first.click()
            page.get_by_role("dialog").wait_for()
            self.assert_fits(page, f"the question of {opens}", (390, 1280))
            page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        page.get_by_label("Id").fill(ids[0])
        page.get_by_role("button", name="Look up").click()
        page.locator("#lookup-job", has_text="ValueError").wait_for()
        self.assert_fits(page, "the error of a job that was looked up", (390, 1280))

    def test_a_long_name_of_a_handler_leaves_room_for_the_error(self) -> None:
        job_id = self.kill(b"x")
        page = self.open(self.web)
        error = self.row_of(page, job_id).get_by_text("ValueError")
        error.wait_for()
        for width in self.resized(page):
            self.assertGreaterEqual(error.evaluate(SEEN), 50, f"at {width} pixels")

    def test_long_names_are_cut_in_the_middle_and_have_all_of_themselves_for_a_tooltip(self) -> None:
        job_id = self.kill(b"x")
        page = self.open_at_its_worst()
        workers, letter = page.locator("#worker-rows"), self.row_of(page, job_id)
        letter.wait_for()
        for part, name in (
            (workers, HANDLER),
            (letter, HANDLER),
            (workers, ADDRESS),
            (page.locator("#legend"), ADDRESS),
        ):
            shown = part.get_by_title(name, exact=True).first.inner_text()
            self.assertLess(len(shown), 60)
            begins, ends = shown.split("\N{HORIZONTAL ELLIPSIS}")
            self.assertTrue(name.startswith(begins) and name.endswith(ends), shown)
            self.assertGreater(min(len(begins), len(ends)), 10)
        for part in (workers, page.locator("header")):
            self.assertLess(len(part.get_by_title("h" * LONG).first.inner_text()), 150)
        self.assertIn(HANDLER, self.unfold(page, job_id).inner_text())

    def test_of_a_large_body_the_beginning_is_shown_and_all_of_it_can_be_saved(self) -> None:
        text = ("xx" + "x\N{EURO SIGN}" * (HUGE // 4)).encode()  # so the 20,000th byte begins a character
        binary = bytes(range(256)) * 1000
        ids = {self.kill(text): (text, "txt"), self.kill(binary): (binary, "bin"), self.kill(b"short"): (b"", "")}
        page = self.open(self.web)
        for job_id, (body, kind) in ids.items():
            row = self.unfold(page, job_id)
            self.assertLess(len(row.inner_text()), 50_000)
            if not body:
                self.assertEqual(row.get_by_role("button", name="Download all").count(), 0)
                continue
            row.get_by_text("980,003 bytes more" if body is text else "236,000 bytes more").wait_for()
            self.assertEqual(self.download(page, row), (f"{job_id}-body.{kind}", body))

    def test_of_a_large_result_the_beginning_is_shown_and_all_of_it_can_be_saved(self) -> None:
        page = self.open(self.web)
        for body, result in (("give a line", b"r" * HUGE), ("give lines", b"r\n" * (HUGE // 2))):
            job_id = self.push(page, body)
            page.locator("#lookup-rest", has_text="980,000 bytes more").wait_for()
            self.assertEqual(len(page.text_content("#lookup-content") or ""), 20_000)
            saved = self.download(page, page.locator("#lookup-rest"))
            self.assertEqual(saved, (f"{job_id}-result.txt", result))
        job_id = self.push(page, "give bytes")
        page.locator("#lookup-type", has_text="application/octet-stream").wait_for()
        saved = self.download(page, page.locator("#lookup-rest"))
        self.assertEqual(saved, (f"{job_id}-result.bin", bytes(HUGE)))
