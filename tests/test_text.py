"""What of strangers' text reaches logs and terminals."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from zpipeline.text import printable, printable_lines


class TextTests(SynchronousTestCase):
    def test_what_can_be_shown_is_left_as_it_is(self) -> None:
        for text in ("", "plain", "größer 漢字 🙂", "\\ and 'quotes'"):
            self.assertEqual(printable(text), text)

    def test_all_else_is_escaped(self) -> None:
        for code in [*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x202E, 0x2028, 0xFEFF, 0xD800]:
            shown = printable(chr(code))
            self.assertTrue(shown.startswith("\\") and shown.isascii() and shown.isprintable(), hex(code))

    def test_lines_stay_lines(self) -> None:
        self.assertEqual(printable_lines("one\x1b\n  two\n"), "one\\x1b\n  two\n")
