"""One job on the page: pushed, and looked up."""

from __future__ import annotations

from tests.browser.case import BrowserCase

NOT_FOUND = "Failed to load resource: the server responded with a status of 404"

#: A job's body says what its handler returns.
HANDLER = """
RESULTS = {
    b"a dictionary": {"width": 320},
    b"text": "<b>bold</b>",
    b"bytes": bytes(1000),
    b"nothing": None,
}

def answer(job):
    return RESULTS[job.body]
"""

SHOWN = {
    "a dictionary": ("application/json, 14 B", '{"width": 320}'),
    "text": ("text/plain; charset=utf-8, 11 B", "<b>bold</b>"),
    "bytes": ("application/octet-stream, 1 kB", ""),
    "nothing": ("application/json, 4 B", "null"),
}


class Jobs(BrowserCase):
    def test_a_job_that_is_pushed_there_is_followed_until_it_is_done(self) -> None:
        web, (worker,) = self.start(workers=1)
        page = self.open(web)
        page.get_by_role("textbox", name="Body").fill("hello")
        page.get_by_label("Content type").fill("text/x-greeting")
        page.get_by_role("button", name="Push").click()
        page.locator("#push-said", has_text="Accepted: ").wait_for()
        page.locator("#lookup-said", has_text="done").wait_for()
        job_id = page.get_by_label("Id").input_value()
        record = self.rig.record(worker.port)
        self.assertEqual((record.bodies, record.ended), (["hello"], [job_id]))

    def test_a_job_that_waits_is_looked_up_and_followed(self) -> None:
        web, (worker,) = self.start(workers=1)
        worker.end()
        self.rig.until_ready(web, 0)
        page = self.open(web)
        page.get_by_role("button", name="Push").click()
        page.locator("#lookup-said", has_text="waiting").wait_for()
        self.rig.again(worker)
        page.locator("#lookup-said", has_text="done").wait_for(timeout=30_000)

    def test_an_id_that_is_unknown_is_said_to_be(self) -> None:
        self.expected = (NOT_FOUND,)
        web, _ = self.start(workers=1)
        page = self.open(web)
        page.get_by_label("Id").fill("0" * 32)
        page.get_by_role("button", name="Look up").click()
        page.locator("#lookup-said", has_text="no job of this id is known").wait_for()

    def test_what_is_no_id_is_not_even_asked_for(self) -> None:
        """A path with two dots in it would be another path: that of a push."""
        web, _ = self.start(workers=1)
        page = self.open(web)
        asked: list[str] = []
        page.on("request", lambda made: asked.append(made.url))
        for text in ("..", "../dead", "a b", "0" * 33):
            page.get_by_label("Id").fill(text)
            page.get_by_role("button", name="Look up").click()
            page.locator("#lookup-said", has_text="an id is 32 characters").wait_for()
        self.assertEqual(asked, [])

    def test_a_content_type_that_cannot_be_is_said_to_be(self) -> None:
        web, _ = self.start(workers=1)
        page = self.open(web)
        page.get_by_label("Content type").fill("\N{SNOWMAN}")
        page.get_by_role("button", name="Push").click()
        page.locator("#push-said", has_text="a content type is").wait_for()

    def test_what_a_job_has_returned_is_shown_as_what_it_is(self) -> None:
        web, _ = self.start_with(HANDLER, "answers:answer", workers=1)
        page = self.open(web)
        for body, (kind, content) in SHOWN.items():
            page.get_by_role("textbox", name="Body").fill(body)
            page.get_by_role("button", name="Push").click()
            page.locator("#lookup-type", has_text=kind).wait_for()
            self.assertEqual(page.locator("#lookup-content").inner_text(), content)

    def test_the_error_of_one_that_is_dead_is_shown(self) -> None:
        web, _ = self.start_with(HANDLER, "answers:answer", workers=1)
        page = self.open(web)
        page.get_by_role("textbox", name="Body").fill("what it does not know")
        page.get_by_role("button", name="Push").click()
        page.locator("#lookup-said", has_text="dead").wait_for()
        page.locator("#lookup-job", has_text="KeyError: b'what it does not know'").wait_for()
