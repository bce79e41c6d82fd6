"""One timer for all connections that have the same deadline."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from zpipeline.web.http.deadlines import Deadline


class Connection:
    def __init__(self, deadline: Deadline[Connection], again: bool = False) -> None:
        self.deadline = deadline
        self.again = again
        self.ended = 0

    def is_late(self) -> None:
        self.ended += 1
        if self.again:
            self.deadline.begin(self)


class DeadlineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadline: Deadline[Connection] = Deadline(self.clock, 60.0, lambda late: late.is_late())

    def test_each_ends_when_it_has_been_idle_for_so_long_and_once(self) -> None:
        first, second = Connection(self.deadline), Connection(self.deadline)
        self.deadline.begin(first)
        self.clock.advance(30)
        self.deadline.begin(second)
        self.clock.advance(20)
        self.deadline.begin(first)
        self.clock.advance(39.5)
        self.assertEqual((first.ended, second.ended), (0, 0))
        self.clock.advance(0.5)
        self.assertEqual((first.ended, second.ended), (0, 1))
        self.clock.advance(20)
        self.assertEqual((first.ended, second.ended), (1, 1))
        self.clock.advance(100)
        self.assertEqual((first.ended, second.ended), (1, 1))

    def test_there_is_one_timer_for_all_and_none_without_any(self) -> None:
        connections = [Connection(self.deadline) for _ in range(9)]
        for connection in connections:
            self.deadline.begin(connection)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for connection in connections:
            self.deadline.end(connection)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.deadline.end(connections[0])

    def test_an_error_of_one_does_not_keep_the_others(self) -> None:
        first, second = Connection(self.deadline), Connection(self.deadline)
        self.deadline.begin(first)
        self.deadline.begin(second)
        self.patch(first, "is_late", lambda: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            self.clock.advance(60)
        self.clock.advance(0)
        self.assertEqual(second.ended, 1)

    def test_one_that_must_not_end_yet_has_as_much_time_again(self) -> None:
        connection = Connection(self.deadline, again=True)
        self.deadline.begin(connection)
        self.clock.pump([60, 59, 1])
        self.assertEqual(connection.ended, 2)

    def test_there_is_one_timer_however_often_connections_that_must_not_end_are_looked_at(self) -> None:
        connections = [Connection(self.deadline, again=True) for _ in range(20)]
        for connection in connections:
            self.deadline.begin(connection)
            self.clock.advance(1)
        for _ in range(600):
            self.clock.advance(1)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual({connection.ended for connection in connections}, {10})

    def test_one_that_is_forgotten_while_others_are_ended_leaves_no_timer(self) -> None:
        first, second = Connection(self.deadline), Connection(self.deadline)
        self.deadline.begin(first)
        self.deadline.begin(second)
        first.is_late = lambda: self.deadline.end(second)  # type: ignore[method-assign]
        self.clock.advance(60)
        self.assertEqual((self.clock.getDelayedCalls(), second.ended), ([], 0))
