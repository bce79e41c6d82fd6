"""A journal with damaged pages: what cannot be read is said, and where jobs cannot, nothing is accepted any more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from unittest.mock import patch

from tests.journal_kit import MANY, JournalCase, dead, done, job, jobs, until
from zpipeline.errors import JournalError
from zpipeline.journal import Journal, writer
from zpipeline.journal.tables import Tables


class DamageTests(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(writer, "RETRY_SECONDS", 0.01)

    async def damaged(self, table: str) -> Journal:
        """A journal with jobs and a dead letter, opened after the first page of a table was overwritten."""
        journal = self.journal()
        journal.open(self.owner)
        await self.put(journal, *(job(number, b"x" * 500) for number in range(1, 60)))
        journal.note(dead(*jobs(1, 2)))
        await journal.close()
        with closing(self.other()) as other:
            (page,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            (size,) = other.execute("PRAGMA page_size").fetchone()
        with self.path.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        return self.opened()

    async def refusal(self, journal: Journal) -> str:
        return str(await self.assertFailure(journal.accept(jobs(99), None), JournalError))

    async def test_where_jobs_must_be_read_nothing_is_accepted_from_then_on(self) -> None:
        journal = await self.damaged("jobs")
        await self.assertFailure(journal.load(0, 9, MANY), JournalError)
        for number in range(100, 140):
            why = str(await self.assertFailure(journal.accept(jobs(number), None), JournalError))
            self.assertIn(f"the journal {self.path}: it is damaged", why)
            self.assertEqual(journal.trouble, why)
            journal.note(done(*jobs(3)))
        self.assertTrue(journal.congested, "what would be handed out could not be settled")
        self.assertEqual(await journal.close(), 40, "so much may run again")
        self.assertEqual(self.rows("SELECT sequence FROM settled WHERE sequence = 3"), [])
        self.assertFalse(self.owner.recovered.called)

    async def test_where_only_a_question_reads_that_question_is_refused_and_all_else_goes_on(self) -> None:
        journal = await self.damaged("dead")
        accepted = journal.accept(jobs(99), None)
        letters = self.assertFailure(journal.letters(0, 9), JournalError)
        self.assertIsNone(await accepted)
        self.assertIn("it is damaged", str(await letters))
        self.assertIsNone(journal.trouble)
        journal.note(done(*jobs(3)))
        await until(lambda: self.rows("SELECT sequence FROM settled WHERE sequence = 3"), "it is settled")

    async def test_a_question_that_meets_a_page_that_cannot_be_read_for_a_moment_wedges_nothing(self) -> None:
        journal = self.opened()
        entries = jobs(*range(1, 3001))
        await self.put(journal, *entries)
        journal.note(done(*entries))
        await journal.status(1)
        connection = self.connection(journal)
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'settled'").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA shrink_memory")
        with self.path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            good = file.read(4096)
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
        await self.assertFailure(journal.status(5), JournalError)
        with self.path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(good)
        connection.execute("PRAGMA shrink_memory")
        self.assertIsNone(await journal.accept(jobs(9000), None))
        self.assertEqual((await journal.status(3000)).state, "done")
        self.assertEqual(await journal.close(), 0)

    async def test_who_cannot_be_told_whether_it_was_accepted_is_told_that(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))

        def fail(tables: Tables) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        with patch.object(Tables, "commit", fail):
            why = await self.refusal(journal)
        self.assertIn("it is not known whether this was accepted", why)
        self.assertTrue(journal.congested)

    async def test_questions_are_answered_as_the_file_stands(self) -> None:
        journal = await self.damaged("jobs")
        await self.assertFailure(journal.load(0, 9, MANY), JournalError)
        self.assertEqual([each.sequence for each in await journal.letters(0, 9)], [1, 2])
        await self.assertFailure(journal.status(3), JournalError)
