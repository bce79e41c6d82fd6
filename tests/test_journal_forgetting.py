"""What is looked at to forget what is old: some rows at a time, however many there are."""

from __future__ import annotations

from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from tests.journal_kit import NOW, done, job, jobs
from zpipeline.journal.opening import open_journal
from zpipeline.journal.tables import Tables
from zpipeline.store import Limits

LATE = 20_000


class ManyLateTests(SynchronousTestCase):
    """Nearly all jobs were settled long after some that were accepted later."""

    def test_looking_for_what_is_old_does_not_go_through_all_of_them_each_time(self) -> None:
        connection, _ = open_journal(self.mktemp())
        with closing(connection):
            tables = Tables(connection, Limits(1000.0, 1_000_000, 10, 100_000))
            self.settle(tables, [10_000_000, *range(1, LATE + 1)], NOW)
            self.assertEqual(connection.execute("SELECT count(*) FROM late").fetchone(), (LATE,))
            steps = 0

            def step() -> int:
                nonlocal steps
                steps += 1
                return 0

            each = []
            connection.set_progress_handler(step, 100)
            for second in range(30):
                steps = 0
                self.settle(tables, [10_000_001 + second], NOW + 1 + second)
                each.append(steps * 100)
            connection.set_progress_handler(None, 0)
            self.assertLess(max(each), 20 * LATE, "one look goes through so many rows at most")
            self.assertLess(each[-1], LATE / 2, "and once all were seen, they are not looked at again")
            kept = connection.execute("SELECT count(*) FROM settled").fetchone()
            self.assertEqual(kept, (LATE + 31,))
            for second in range(30):
                self.settle(tables, [10_000_100 + second], NOW + 2000 + second)
            self.assertEqual(connection.execute("SELECT count(*) FROM settled").fetchone(), (30,), "all that is old")
            self.assertEqual(connection.execute("SELECT count(*) FROM late").fetchone(), (0,))

    def settle(self, tables: Tables, numbers: list[int], at: float) -> None:
        """Accept these and settle them, one transaction each, as a journal does."""
        for some in (numbers[:1], numbers[1:]):
            if some:
                tables.begin()
                tables.accept([job(number, at=at) for number in some], None, at)
                tables.finish()
                tables.commit()
                tables.begin()
                tables.write(done(*jobs(*some), at=at))
                tables.tidy(at)
                tables.finish()
                tables.commit()
