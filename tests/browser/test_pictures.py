"""Pictures of the page, as docs/page.rst has them: `docs/page/` has copies of what this writes.

They are written into the folder that $ZPIPELINE_SCREENSHOTS names, and then the chart has all of its three minutes; or
else into docs/_screenshots, after some seconds.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

from tests.browser.case import DARK, DESKTOP, PHONE, BrowserCase
from tests.faults.load import Load, dead_letters, post
from tests.faults.rig import ROOT, Process

FOLDER = os.environ.get("ZPIPELINE_SCREENSHOTS")
INTO = Path(FOLDER) if FOLDER else ROOT / "docs/_screenshots"

#: Seconds for which the load has gone on when the worker is lost, and since then when the pictures are taken.
BEFORE, AFTER = (150, 20) if FOLDER else (4, 3)

LOOKS: dict[str, dict[str, Any]] = {
    "overview": DESKTOP,
    "dark": DARK,
    "dead": DESKTOP,
    "job": DESKTOP,
    "phone": {**PHONE, "device_scale_factor": 2},
}

#: A picture says nothing of the machine on which it was taken.
ELSEWHERE = """([here, there]) => {
    for (const pre of document.querySelectorAll("#dead pre")) pre.textContent = pre.textContent.replaceAll(here, there);
}"""

#: What docs/page.rst says that its workers run.
HANDLER = '''\
import time

def resize(job):
    """How large the photo is then."""
    size = job.json()
    time.sleep(0.002)
    return {"width": size["width"] // 2, "height": size["height"] // 2}
'''


class Pictures(BrowserCase):
    def load_that_varies(self, web: Process) -> None:
        """From one to five hundred jobs a second, until the test ends."""
        stop = Event()

        def bodies() -> Iterator[bytes]:
            for number in itertools.count():
                if stop.wait(0.004 - 0.003 * math.sin(number / 2500)):
                    return
                yield b'{"width": 640, "height": 480}'

        load = Load(web.port, bodies()).start(1)
        self.addCleanup(load.join)
        self.addCleanup(stop.set)

    def test_they_are_taken(self) -> None:
        web, workers = self.start_with(HANDLER, "photos:resize")
        for body in (b'{"height": 480}', b'{"width": 640}', b"640x480"):
            post(web.port, body)
        self.rig.until("all are dead", lambda: len(dead_letters(web.port)) == 3)
        self.load_that_varies(web)
        pages = {look: self.open(web, **options) for look, options in LOOKS.items()}
        any_page = pages["overview"]
        any_page.wait_for_timeout(BEFORE * 1000)
        workers[1].signal(signal.SIGKILL)
        for page in pages.values():
            page.locator("#worker-rows tr[data-state=lost]").wait_for()
        any_page.wait_for_timeout(AFTER * 1000)

        letters = pages["dead"].locator("#dead")
        letters.get_by_role("button", name="Details").first.click()
        letters.get_by_text("Traceback (most recent call last)").wait_for()
        for here, there in ((ROOT, "/srv/zpipeline"), (self.rig.folder, "/srv/photos")):
            pages["dead"].evaluate(ELSEWHERE, [str(here), there])
        pages["job"].get_by_role("textbox", name="Body").fill('{"width": 640, "height": 480}')
        pages["job"].get_by_role("button", name="Push").click()
        pages["job"].locator("#lookup-content", has_text="320").wait_for()

        INTO.mkdir(parents=True, exist_ok=True)
        parts = {"dead": letters, "job": pages["job"].locator("#jobs")}
        for look, page in pages.items():
            shown = parts.get(look, page)
            self.assertGreater(len(shown.screenshot(path=INTO / f"{look}.png")), 10_000, look)
