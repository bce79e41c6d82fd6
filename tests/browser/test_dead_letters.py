"""Dead letters on the page: looked at, retried, dropped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.browser.case import DeadLetterCase
from tests.faults.load import dead_letters, post, request

if TYPE_CHECKING:
    from playwright.sync_api import Page

MARKUP = "<img src=x onerror=\"document.title = 'taken'\">"


class DeadLetters(DeadLetterCase):
    def setUp(self) -> None:
        super().setUp()
        self.web, _ = self.start(workers=1)

    def gone(self, page: Page, job_id: str) -> None:
        """Wait until the page has it no more."""
        self.row_of(page, job_id).wait_for(state="detached")

    def test_one_has_its_error_and_all_of_it_below(self) -> None:
        page = self.open(self.web)
        page.get_by_text("No dead letters.").wait_for()
        job_id = self.kill(b"fail 9", "X-User: ada\r\n")
        row = self.row_of(page, job_id)
        row.get_by_text("ValueError: attempt 1 fails").wait_for()
        row.get_by_role("button", name="Details").click()
        row.get_by_text("Traceback (most recent call last)").wait_for()
        text = row.inner_text()
        for expected in ("fail 9", "ada", job_id, "tests/faults/bodies.py"):
            self.assertIn(expected, text)
        row.get_by_role("button", name="Details").click()
        row.get_by_text("Traceback (most recent call last)").wait_for(state="detached")

    def test_one_that_is_retried_runs(self) -> None:
        job_id = self.kill(b"fail 1")
        page = self.open(self.web)
        self.row_of(page, job_id).get_by_role("button", name="Retry").click()
        page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        self.gone(page, job_id)
        page.locator("#lookup-said", has_text="done").wait_for()
        self.assertEqual(page.get_by_label("Id").input_value(), job_id)
        self.assertEqual(self.rig.ended()[job_id], 1)

    def test_those_that_match_are_retried_and_the_others_are_not(self) -> None:
        matching = {self.kill(b"fail 1"), self.kill(b"fail 1")}
        other = self.kill(b"fail 5")
        request(self.web.port, "POST", f"/dead/{other}/retry")
        self.rig.until("it fails anew", lambda: "attempt 2" in str(dead_letters(self.web.port).get(other)))
        page = self.open(self.web)
        self.row_of(page, other).wait_for()
        page.get_by_label("Error has the text").fill("attempt 1 fails")
        page.get_by_text("matches 2 of the 3 below").wait_for()
        page.get_by_role("button", name="Retry all that match").click()
        page.get_by_role("dialog").get_by_role("button", name="Retry all").click()
        page.locator("#dead-said", has_text="2 dead letters are jobs again").wait_for()
        for job_id in matching:
            self.gone(page, job_id)
        self.rig.until_ran(matching)
        self.assertEqual(set(dead_letters(self.web.port)), {other})

    def test_one_that_is_dropped_is_gone(self) -> None:
        job_id = self.kill(b"fail 9")
        page = self.open(self.web)
        self.row_of(page, job_id).get_by_role("button", name="Drop").click()
        page.get_by_role("dialog").get_by_role("button", name="Drop").click()
        self.gone(page, job_id)
        page.get_by_text("No dead letters.").wait_for()
        self.assertEqual(dead_letters(self.web.port), {})

    def test_nothing_is_done_before_it_is_confirmed(self) -> None:
        job_id = self.kill(b"fail 9")
        page = self.open(self.web)
        row = self.row_of(page, job_id)
        asked: list[str] = []
        page.on("request", lambda made: asked.append(made.method))
        for opens in (
            row.get_by_role("button", name="Retry"),
            row.get_by_role("button", name="Drop"),
            page.get_by_role("button", name="Retry all…"),
        ):
            opens.click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_role("button", name="Cancel").click()
            dialog.wait_for(state="hidden")
        self.assertLessEqual(set(asked), {"GET"})
        self.assertEqual(set(dead_letters(self.web.port)), {job_id})

    def test_one_that_somebody_else_has_dropped_is_said_to_be_gone(self) -> None:
        self.expected = ("Failed to load resource: the server responded with a status of 404",)
        job_id = self.kill(b"fail 9")
        page = self.open(self.web)
        self.row_of(page, job_id).get_by_role("button", name="Retry").click()
        request(self.web.port, "DELETE", f"/dead/{job_id}")
        page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        page.locator("#dead-said", has_text="there is no dead letter of this id").wait_for()
        self.gone(page, job_id)

    def test_there_are_pages_of_them(self) -> None:
        ids = sorted(json.loads(post(self.web.port, b"fail 9")[2])["id"] for _ in range(25))
        self.rig.until("all are dead", lambda: len(dead_letters(self.web.port)) == 25)
        page = self.open(self.web)
        page.get_by_role("button", name="Next").click()
        self.row_of(page, ids[24]).wait_for()
        self.gone(page, ids[0])
        page.get_by_role("button", name="Back").click()
        self.row_of(page, ids[0]).wait_for()
        self.gone(page, ids[24])

    def test_what_strangers_wrote_is_text(self) -> None:
        job_id = self.kill(b"fail 9", f"X-Note: {MARKUP}\r\n")
        page = self.open(self.web)
        row = self.row_of(page, job_id)
        row.get_by_role("button", name="Details").click()
        row.get_by_text(MARKUP).wait_for()
        self.assertEqual(page.locator("img").count(), 0)
        self.assertNotEqual(page.title(), "taken")

    def test_the_keyboard_is_enough(self) -> None:
        first, second = self.kill(b"fail 9"), self.kill(b"fail 9")
        page = self.open(self.web)
        self.row_of(page, second).get_by_role("button", name="Drop").focus()
        page.keyboard.press("Enter")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Cancel")
        page.keyboard.press("Escape")
        self.assertEqual(page.evaluate("document.activeElement.ariaLabel"), f"Drop… {second}")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        self.gone(page, second)
        # what had the focus is gone, and it is on what took its place
        self.assertEqual(page.evaluate("document.activeElement.ariaLabel"), f"Details {first}")
