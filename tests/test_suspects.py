"""Groups of suspects: how they are cut, and which comes next."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline.entry import Entry
from zpipeline.suspects import MAX_STRIKES, SHARES, Suspects


def entries(*numbers: int) -> list[Entry]:
    return [Entry(number, b"", b"{}", 0.0) for number in numbers]


class SuspectsTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.suspects = Suspects()

    def next(self) -> list[int]:
        return [entry.sequence for entry in self.suspects.next()]

    def test_the_numbers_are_those_that_are_documented(self) -> None:
        self.assertEqual((SHARES, MAX_STRIKES), (16, 3))

    def test_there_is_nothing_at_first(self) -> None:
        self.assertEqual((len(self.suspects), self.next()), (0, []))

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.integers(1, 500))
    def test_a_group_is_a_sixteenth_rounded_up_and_groups_come_in_order(self, count: int) -> None:
        suspects = Suspects()
        suspects.cut(entries(*range(count)))
        groups = [suspects.next() for _ in range(len(suspects))]
        self.assertEqual([entry.sequence for group in groups for entry in group], list(range(count)))
        self.assertLessEqual(len(groups), 16)
        self.assertEqual({len(group) for group in groups[:-1]} or {1}, {(count + 15) // 16} if groups[1:] else {1})

    def test_sixteen_jobs_are_sixteen_groups_and_seventeen_are_nine(self) -> None:
        for count, groups in ((16, 16), (17, 9)):
            self.suspects = Suspects()
            self.suspects.cut(entries(*range(count)))
            self.assertEqual(len(self.suspects), groups)

    def test_what_is_cut_comes_before_what_waits(self) -> None:
        self.suspects.cut(entries(1, 2))
        self.suspects.cut(entries(3, 4))
        self.assertEqual([self.next() for _ in range(5)], [[3], [4], [1], [2], []])

    def test_a_group_that_was_not_tried_to_the_end_is_next_as_it_is(self) -> None:
        self.suspects.cut(entries(1, 2))
        self.suspects.again(entries(7, 8, 9))
        self.assertEqual(len(self.suspects), 3)
        self.assertEqual([self.next(), self.next()], [[7, 8, 9], [1]])

    def test_those_that_are_settled_are_left_out(self) -> None:
        one, two, three, four = entries(1, 2, 3, 4)
        self.suspects.again([three, four])
        self.suspects.again([one, two])
        for entry in (one, two, three):
            entry.settled_at = 5.0
        self.assertEqual([self.next(), self.next()], [[4], []])
        self.assertEqual(len(self.suspects), 0)
