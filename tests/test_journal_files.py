"""The journal's files: who may read them, which of them are touched, and whether they still have their names."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

from twisted.internet import reactor

from tests.journal_kit import LIMITS, JournalCase, Owner, done, end, job, jobs, until
from zpipeline.errors import JournalError, UsageError
from zpipeline.journal import Journal, opening, tables, writer
from zpipeline.journal.identity import Identity


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """With this umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class FilesCase(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.lock = self.folder / "jobs.sqlite.lock"
        self.log = self.folder / "jobs.sqlite-wal"

    def refused(self, path: Path | None = None) -> str:
        """What is said when it cannot be opened."""
        journal = Journal(reactor, str(path or self.path), self.times, synchronous="full", limits=LIMITS)
        said = str(self.assertRaises(UsageError, journal.open, Owner()))
        self.assertNotIn("\n", said)
        return said

    async def closed(self) -> None:
        """A journal with a job, closed."""
        journal = self.journal()
        journal.open(self.owner)
        await self.put(journal, job(1))
        await journal.close()

    def crashed(self) -> None:
        """A journal with jobs, whose process was killed: SQLite's log is there."""
        process = self.process("push")
        assert process.stdout is not None
        process.stdout.readline()
        end(process)
        self.assertGreater(self.log.stat().st_size, 0)


class ModeTests(FilesCase):
    """A journal is for its owner alone."""

    async def test_whatever_the_umask_nobody_else_may_read_it(self) -> None:
        for mask in (0o000, 0o022, 0o777):
            self.path = self.folder / f"jobs-{mask}"
            with umask(mask):
                journal = self.opened()
                await self.put(journal, job(1))
            for name in (self.path, f"{self.path}-wal", f"{self.path}-shm"):
                self.assertEqual(oct(S_IMODE(os.stat(name).st_mode)), "0o600", name)
            self.assertEqual(oct(S_IMODE(os.stat(f"{self.path}.lock").st_mode)), "0o600")

    async def test_one_that_is_there_keeps_its_mode(self) -> None:
        await self.closed()
        self.path.chmod(0o640)
        await self.put(self.opened(), job(2))
        self.assertEqual(S_IMODE(self.path.stat().st_mode), 0o640)


class LockTests(FilesCase):
    """The lock is a file of ours, or nothing is touched."""

    def test_another_programs_file_of_its_name_is_left_alone(self) -> None:
        self.lock.write_text("[[package]]\nname = 'attrs'\n")
        said = self.refused()
        self.assertIn(f"its lock would be {self.lock}, and that is another program's file", said)
        self.assertEqual(self.lock.read_text(), "[[package]]\nname = 'attrs'\n")
        self.assertFalse(self.path.exists())

    def test_a_link_is_not_followed(self) -> None:
        target = self.folder / "precious"
        for text in ("1234\n", "", None):
            if text is not None:
                target.write_text(text)
            self.lock.unlink(missing_ok=True)
            self.lock.symlink_to(target)
            self.assertIn("and that is a link", self.refused())
            self.assertEqual(target.read_text() if target.exists() else None, text)
            target.unlink(missing_ok=True)

    def test_what_is_no_file_is_no_lock(self) -> None:
        self.lock.mkdir()
        self.assertIn("and that is a folder", self.refused())
        self.lock.rmdir()
        os.mkfifo(self.lock)
        self.assertIn("and that is no plain file", self.refused())

    def test_a_journal_of_another_program_leaves_the_lock_as_it_was(self) -> None:
        other = self.other()
        other.execute("CREATE TABLE photos (name)")
        other.close()
        self.lock.write_text("4711\n")
        self.assertIn("another program's SQLite file", self.refused())
        self.assertEqual(self.lock.read_text(), "4711\n")

    async def test_a_lock_of_an_older_version_is_one(self) -> None:
        await self.closed()
        self.lock.write_text("4711\n")
        await self.put(self.opened(), job(2))

    async def test_a_longer_text_leaves_nothing_behind_the_new_one(self) -> None:
        await self.closed()
        self.lock.write_text(f"{1 << 22}\n{'f' * 16}\n")
        await self.opened().close()
        self.assertRegex(self.lock.read_text(), rf"\A{os.getpid()} *\n[0-9a-f]{{16}}\n\Z")
        self.lock.write_bytes(bytes(28))  # as after a power cut
        await self.put(self.opened(), job(2))

    async def test_one_that_was_removed_is_made_again_and_holds(self) -> None:
        await self.closed()
        self.lock.unlink()
        self.opened()
        self.assertIn(f"in use by process {os.getpid()}", self.refused())

    async def test_another_name_of_the_file_lets_nobody_in(self) -> None:
        await self.closed()
        other = self.folder / "other.sqlite"
        other.hardlink_to(self.path)
        said = self.refused(other)
        self.assertIn("has 2 names (hard links)", said)
        self.assertIn("remove the others", said)
        other.unlink()
        await self.put(self.opened(), job(2))


class SmallTests(FilesCase):
    """What SQLite takes for a new file, and is somebody's."""

    def test_a_file_too_small_for_sqlite_is_left_alone(self) -> None:
        for content in (b"x", b"\0", b"notes" * 100):
            self.path.write_bytes(content)
            self.assertIn("it is damaged, or no SQLite file", self.refused())
            self.assertEqual(self.path.read_bytes(), content)

    def test_an_empty_file_in_the_place_of_the_lock_keeps_its_mode(self) -> None:
        self.lock.touch()
        self.lock.chmod(0o640)
        self.opened()
        self.assertEqual(S_IMODE(self.lock.stat().st_mode), 0o640)


class BegunAnewTests(FilesCase):
    """A file that had jobs is not begun anew in silence."""

    async def test_one_that_was_emptied_is_refused(self) -> None:
        await self.closed()
        self.path.write_bytes(b"")
        said = self.refused()
        self.assertIn("is empty, though there were jobs in it: restore it from a backup, or remove it", said)
        self.assertEqual(self.path.stat().st_size, 0)

    def test_one_that_was_emptied_after_a_kill_is_refused_and_its_log_kept(self) -> None:
        self.crashed()
        size = self.log.stat().st_size
        self.path.write_bytes(b"")
        self.lock.unlink()
        self.assertIn("is empty, though there were jobs in it", self.refused())
        self.assertEqual(self.log.stat().st_size, size)

    def test_one_that_is_gone_with_its_log_there_is_refused(self) -> None:
        self.crashed()
        size = self.log.stat().st_size
        self.path.unlink()
        said = self.refused()
        self.assertIn(f"is gone, and its log {self.log} is there: put the journal back, or remove the log", said)
        self.assertEqual((self.log.stat().st_size, self.path.exists()), (size, False))

    async def test_one_that_was_removed_is_begun_anew_and_that_is_said(self) -> None:
        await self.closed()
        self.path.unlink()
        said: list[str] = []
        self.patch(opening, "log", _Lines(said))
        self.opened()
        self.assertEqual(len(said), 1)
        self.assertIn("is gone, that was here at the last start", said[0])

    async def test_nothing_is_said_of_one_that_never_was(self) -> None:
        said: list[str] = []
        self.patch(opening, "log", _Lines(said))
        self.path.touch()
        self.opened()
        self.assertEqual(said, [])


class _Lines:
    """A logger that writes down its warnings."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def warn(self, text: str, **fields: object) -> None:
        self._said.append(text.format(**fields))


class MislaidTests(FilesCase):
    """While it is open."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(writer, "RETRY_SECONDS", 0.01)
        self.patch(writer, "LOOK_SECONDS", 0.02)

    async def until_in_trouble(self, journal: Journal, why: str) -> None:
        """Wait until it is noticed, with nobody pushing; and nothing is accepted then."""
        await until(lambda: journal.trouble, "it is noticed")
        self.assertIn(why, journal.trouble or "")
        await self.assertFailure(journal.accept(jobs(9), None), JournalError)

    async def test_one_that_was_removed_takes_nothing_more(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        self.path.unlink()
        refusal = await self.assertFailure(journal.accept(jobs(2), None), JournalError)
        self.assertIn(f"{self.path} was removed while it was in use", str(refusal))

    async def test_one_that_was_removed_is_noticed_though_nobody_pushes(self) -> None:
        journal = self.opened()
        self.path.unlink()
        await self.until_in_trouble(journal, "was removed while it was in use: put it back")

    async def test_one_whose_log_was_removed_is_noticed(self) -> None:
        journal = self.opened()
        self.log.unlink()
        await self.until_in_trouble(journal, f"{self.log} was removed")

    async def test_another_file_in_its_place_is_noticed(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        copy = self.folder / "copy"
        copy.write_bytes(self.path.read_bytes())
        copy.rename(self.path)
        await self.until_in_trouble(journal, f"another file has taken the place of {self.path}")

    async def test_one_that_was_truncated_is_noticed(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        os.truncate(self.path, 0)
        await self.until_in_trouble(journal, f"{self.path} was cut off")

    async def test_one_whose_log_was_truncated_is_noticed(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        os.truncate(self.log, 0)
        with self.log.open("r+b") as log:
            log.seek(50_000)
            log.write(b"more")  # as the next transaction does
        await self.until_in_trouble(journal, f"{self.log} was cut off")

    async def test_when_it_is_back_it_goes_on_and_what_was_refused_is_not_there(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        away = self.folder / "away"
        self.path.rename(away)
        await self.until_in_trouble(journal, "was removed while it was in use")
        journal.note(done(*jobs(1)))
        away.rename(self.path)
        await self.owner.recovered
        await self.put(journal, job(2))
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [(2,)])
        self.assertEqual(self.rows("SELECT sequence FROM settled"), [(1,)])

    async def test_a_log_that_another_program_has_emptied_is_in_order(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        self.other().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.assertEqual(self.log.stat().st_size, 0)
        Identity(str(self.path)).check()
        await self.put(journal, job(2))
        self.assertIsNone(journal.trouble)


class LogTests(FilesCase):
    """SQLite's log, with another program that reads."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(tables, "_CHECKPOINT_PAGES", 100)
        self.patch(opening, "LOG_SIZE", 1 << 20)
        self.patch(writer, "LONG_LOG", 1 << 20)
        self.patch(writer, "VERY_LONG_LOG", 4 << 20)
        self.patch(writer, "LOOK_SECONDS", 0.05)
        self.said: list[str] = []
        self.patch(writer, "log", _Lines(self.said))

    async def test_one_that_grows_because_of_a_reader_is_said_once_and_shrinks_when_that_has_gone(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        reader = sqlite3.connect(self.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        for number in range(2, 12):
            await self.put(journal, job(number, b"x" * 1_000_000))
        self.assertGreater(self.log.stat().st_size, 8 << 20)
        await until(lambda: self.said, "it is said")
        self.assertEqual(len(self.said), 1)
        self.assertIn(f"the journal {self.path}: its log {self.path}-wal grows", self.said[0])
        self.assertIn("end that program", self.said[0])
        reader.close()
        await until(lambda: self.log.stat().st_size <= 1 << 20, "the log is short again, though nobody pushes")
        self.assertEqual(len(self.said), 1)
        self.assertEqual(self.rows("SELECT count(*) FROM jobs"), [(11,)])
