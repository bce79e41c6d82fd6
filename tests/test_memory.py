"""What a pipeline remembers of settled jobs."""

from __future__ import annotations

from twisted.trial import unittest

from zpipeline.dispatch import Entry
from zpipeline.memory import Settled


def entries(*numbers: int) -> list[Entry]:
    return [Entry(number, b"body", b"{}", 0.0) for number in numbers]


class SettledTests(unittest.TestCase):
    def test_what_was_added_is_found_and_nothing_else(self) -> None:
        kept = Settled(10)
        one, two = entries(1, 2)
        kept.add([one, two])
        self.assertIs(kept.get(1), one)
        self.assertIs(kept.get(2), two)
        self.assertIsNone(kept.get(3))

    def test_bodies_are_not_kept(self) -> None:
        kept = Settled(10)
        kept.add(entries(1))
        found = kept.get(1)
        assert found is not None
        self.assertEqual(found.body, b"")

    def test_the_oldest_are_forgotten(self) -> None:
        kept = Settled(3)
        kept.add(entries(9, 1))
        kept.add(entries(2, 3))
        self.assertEqual([kept.get(number) is not None for number in (9, 1, 2, 3)], [False, True, True, True])

    def test_more_at_once_than_are_kept_leaves_the_newest(self) -> None:
        kept = Settled(2)
        kept.add(entries(1, 2, 3, 4, 5))
        self.assertEqual([kept.get(number) is not None for number in range(1, 6)], [False, False, False, True, True])
