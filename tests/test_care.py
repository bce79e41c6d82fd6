"""``zpipe journal``, in this process and in one of its own."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from attrs import define
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.rig import Rig
from tests.faults.test_disk import fill as fill_disk
from tests.journal_kit import ROOT, JournalCase, end, fill, job
from zpipeline import cli
from zpipeline.care import copying
from zpipeline.care.copying import copy
from zpipeline.care.snapshot import CareError
from zpipeline.journal.opening import open_journal
from zpipeline.journal.schema import VERSION

ZPIPE = [sys.executable, "-c", "import sys; from zpipeline.cli import main; sys.exit(main())", "journal", "backup"]

#: Jobs whose journal takes several steps to copy, 4 MiB each.
SOME = 100_000


@define
class Outcome:
    status: object
    out: str
    err: str


def backup(to: Path | str, journal: Path | str) -> Outcome:
    """The command, in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status: object = cli.main(["journal", "backup", str(to), f"--journal={journal}"])
        except SystemExit as exit:
            status = exit.code
    return Outcome(status, out.getvalue(), err.getvalue())


def nothing(phase: str, copied: int, size: int) -> None:
    """Be told, and do nothing."""


class CareCase(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.copy = self.folder / "copy.sqlite"

    def names(self) -> set[str]:
        """Files that are neither the journal nor belong to it."""
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(self.path.name)}

    def sequences(self, path: Path) -> list[int]:
        """The jobs in a journal."""
        with closing(sqlite3.connect(path)) as connection:
            return [row[0] for row in connection.execute("SELECT sequence FROM jobs ORDER BY sequence")]

    def assert_copied(self) -> str:
        """Back it up: what is said."""
        outcome = backup(self.copy, self.path)
        self.assertEqual((outcome.status, outcome.err), (0, ""))
        return outcome.out

    def assert_refused(self, message: str, *, to: Path | None = None, journal: Path | None = None) -> None:
        """Nothing is copied, one line says why, and no file is changed, nor one made, but those that SQLite needs."""
        files = [path for path in self.folder.iterdir() if path.is_file() and not path.name.endswith("-shm")]
        before = {path: path.read_bytes() for path in files}
        names = self.names()
        outcome = backup(to or self.copy, journal or self.path)
        self.assertEqual((outcome.status, outcome.out), (1, ""), outcome.err)
        self.assertTrue(outcome.err.startswith("zpipe journal backup: "), outcome.err)
        self.assertEqual(outcome.err.count("\n"), 1)
        self.assertIn(message, outcome.err)
        self.assertEqual(self.names(), names)
        self.assertEqual({path: path.read_bytes() for path in before}, before)


class CopyTests(CareCase):
    """Of sound journals."""

    def test_a_journal_that_nobody_has_is_copied_and_stays_as_it_is(self) -> None:
        fill(self.path, SOME, "NULL")
        before = self.path.read_bytes()
        said = self.assert_copied()
        self.assertRegex(
            said,
            rf"^{self.copy}: {self.copy.stat().st_size:,} bytes, 100,000 jobs unsettled, 0 dead letters, copied in "
            r"\d+\.\d seconds\n$",
        )
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(self.sequences(self.copy), list(range(1, SOME + 1)))

    async def test_a_journal_whose_process_was_killed_is_copied_with_what_is_in_its_log(self) -> None:
        process = self.process("push")
        assert process.stdout is not None
        accepted = [int(number) for _ in range(50) for number in process.stdout.readline().split()]
        end(process)
        both = (self.path, self.path.with_name(self.path.name + "-wal"))
        for shm_is_there in (True, False):
            if not shm_is_there:
                self.path.with_name(self.path.name + "-shm").unlink()
                self.copy.unlink()
            before = [path.read_bytes() for path in both]
            self.assertGreater(len(before[1]), 0)
            self.assert_copied()
            self.assertEqual([path.read_bytes() for path in both], before)
            with closing(sqlite3.connect(self.copy)) as copied:
                found = copied.execute("SELECT sequence FROM jobs UNION SELECT sequence FROM settled").fetchall()
            self.assertLessEqual(set(accepted), {row[0] for row in found})

    async def test_a_journal_that_is_open_is_copied_as_it_stands(self) -> None:
        journal = self.opened()
        await self.put(journal, *(job(number) for number in range(1, 101)))
        self.assert_copied()
        await self.put(journal, job(101))
        self.assertEqual(self.sequences(self.copy), list(range(1, 101)))

    def test_the_copy_is_a_journal(self) -> None:
        fill(self.path, 10, "NULL")
        self.assert_copied()
        connections = [open_journal(str(path)) for path in (self.path, self.copy)]
        for connection, _ in connections:
            connection.close()
        self.assertEqual(connections[0][1], connections[1][1])

    def test_it_does_not_begin_anew_when_another_writes(self) -> None:
        fill(self.path, SOME, "NULL")
        other = self.other()
        steps: list[int] = []

        def write(phase: str, copied: int, size: int) -> None:
            if phase == "copying":
                steps.append(copied)
                assert len(steps) < 100, "it does not come to its end"
                number = SOME + len(steps)
                other.execute(
                    "INSERT INTO jobs (sequence, accepted_at, headers, body) VALUES (?, 1, '', '')", (number,)
                )

        made = copy(str(self.path), str(self.copy), write)
        self.assertGreater(len(steps), 2)
        self.assertEqual(steps, sorted(set(steps)))
        self.assertEqual((steps[-1], made.pending), (made.size, SOME))
        self.assertEqual(self.sequences(self.copy), list(range(1, SOME + 1)))
        self.assertEqual(len(self.sequences(self.path)), SOME + len(steps))

    def test_who_has_the_journal_may_end_and_another_begin_meanwhile(self) -> None:
        fill(self.path, SOME, "NULL")
        had, opened = open_journal(str(self.path))
        processes: list[subprocess.Popen[str]] = []

        def change(phase: str, copied: int, size: int) -> None:
            if not processes:
                had.close()
                processes.append(self.process("push"))
                assert processes[0].stdout is not None
                processes[0].stdout.readline()  # it has written something

        made = copy(str(self.path), str(self.copy), change)
        end(processes[0])
        self.assertEqual((made.pending, self.sequences(self.copy)), (SOME, list(range(1, SOME + 1))))
        with closing(sqlite3.connect(self.path)) as after:
            self.assertEqual(after.execute("PRAGMA quick_check").fetchone(), ("ok",))
            epoch = after.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        self.assertEqual(epoch, (opened.epoch + 1,))

    def test_only_its_owner_may_read_it_whatever_the_umask_is(self) -> None:
        fill(self.path, 10, "NULL")
        for mask in (0, 0o277):
            before = os.umask(mask)
            try:
                self.assert_copied()
            finally:
                os.umask(before)
            self.assertEqual(self.copy.stat().st_mode & 0o777, 0o600)
            self.copy.unlink()

    def test_nothing_has_its_name_before_it_is_whole(self) -> None:
        fill(self.path, SOME, "NULL")
        seen: list[tuple[str, set[str], int]] = []

        def look(phase: str, copied: int, size: int) -> None:
            [name] = self.names()
            seen.append((phase, {name.rpartition(".")[2]}, (self.folder / name).stat().st_mode & 0o777))

        copy(str(self.path), str(self.copy), look)
        self.assertEqual(set(map(repr, seen)), {repr((phase, {"part"}, 0o600)) for phase in ("copying", "checking")})
        self.assertEqual(self.names(), {"copy.sqlite"})

    def test_what_ends_it_leaves_nothing_behind(self) -> None:
        fill(self.path, 10, "NULL")
        for phase in ("copying", "checking"):

            def stop(now: str, copied: int, size: int, phase: str = phase) -> None:
                if now == phase:
                    raise KeyboardInterrupt

            self.assertRaises(KeyboardInterrupt, copy, str(self.path), str(self.copy), stop)
            self.assertEqual(self.names(), set())

    def test_a_name_may_have_any_character(self) -> None:
        fill(self.path, 10, "NULL")
        named = self.folder / "jobs?mode=rw&a#b%41 é.sqlite"
        self.path.rename(named)
        self.copy = self.folder / "copy?a=b#c%42 é"
        self.assertEqual(backup(self.copy, named).err, "")
        self.assertEqual(self.sequences(self.copy), list(range(1, 11)))

    def test_a_journal_of_an_older_version_is_copied(self) -> None:
        fill(self.path, 10, "NULL")
        self.other().execute(f"PRAGMA user_version={VERSION - 1}")
        self.assert_copied()


class RefusalTests(CareCase):
    """Nothing is copied, and one line says why."""

    def no_journal(self) -> str:
        return (
            f"{self.path} is not a journal: it is empty, cut short, or another program's SQLite file; name the journal"
        )

    def test_there_is_no_journal(self) -> None:
        for path in (self.path, self.folder / "nowhere" / "jobs"):
            self.assert_refused(f"the journal {path}: No such file or directory: name the file", journal=path)

    def test_a_folder_is_no_journal(self) -> None:
        self.path.mkdir()
        self.assert_refused(f"{self.path} is not a file: name the journal with --journal")

    def test_what_is_no_sqlite_file(self) -> None:
        self.path.write_text("some notes\n" * 1000)
        self.assert_refused(f"the journal {self.path}: it is damaged, or no SQLite file")

    def test_an_empty_file(self) -> None:
        self.path.touch()
        self.assert_refused(self.no_journal())

    def test_another_programs_sqlite_file(self) -> None:
        for mode in ("delete", "wal"):
            self.path = self.folder / f"photos-{mode}"
            with closing(sqlite3.connect(self.path)) as other:
                other.execute(f"PRAGMA journal_mode={mode}")
                other.execute("CREATE TABLE meta (name, value)")
            self.assert_refused(self.no_journal())

    def test_a_journal_of_a_newer_version(self) -> None:
        fill(self.path, 10, "NULL")
        self.other().execute("PRAGMA user_version=99")
        self.assert_refused(f"has schema version 99, and this zpipeline knows those up to {VERSION}: use the zpipeline")

    def test_a_journal_that_is_cut_short(self) -> None:
        fill(self.path, 1000, "NULL")
        whole = self.path.read_bytes()
        said = {
            50: self.no_journal(),
            4096: f"the journal {self.path}: it is damaged",
            len(whole) // 2 + 7: f"the journal {self.path}: it is damaged",
        }
        for size, message in said.items():
            self.path.write_bytes(whole[:size])
            self.assert_refused(message)

    def test_a_journal_that_is_damaged_where_opening_does_not_look(self) -> None:
        fill(self.path, 1000, "NULL")
        with closing(sqlite3.connect(self.path)) as other:
            (page,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()
        with self.path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
        self.assert_refused(f"and so may be the journal {self.path}: look by sqlite3")

    def test_the_copy_exists(self) -> None:
        fill(self.path, 10, "NULL")
        self.copy.write_text("dear")
        message = f"{self.copy} exists, and nothing is overwritten: name another file"
        self.assert_refused(message)
        self.copy.unlink()
        self.copy.symlink_to("nowhere")
        self.assert_refused(message)
        self.assert_refused(f"{self.folder} exists", to=self.folder)

    def test_the_copy_is_made_by_another_meanwhile(self) -> None:
        fill(self.path, 10, "NULL")

        def make(phase: str, copied: int, size: int) -> None:
            self.copy.write_text("dear")

        error = self.assertRaises(CareError, copy, str(self.path), str(self.copy), make)
        self.assertIn(f"{self.copy} exists, and nothing is overwritten", str(error))
        self.assertEqual((self.names(), self.copy.read_text()), ({"copy.sqlite"}, "dear"))

    def test_the_copy_is_the_journal(self) -> None:
        fill(self.path, 10, "NULL")
        names = [self.path]
        for make in (os.symlink, os.link):
            names.append(self.folder / make.__name__)
            make(self.path, names[-1])
        names += [self.path.with_name(self.path.name + ending) for ending in ("-wal", "-shm", "-journal", ".lock")]
        for name in names:
            self.assert_refused(f"{name} is the journal itself", to=name)

    def test_what_sqlite_would_take_for_a_part_of_the_copy(self) -> None:
        fill(self.path, 10, "NULL")
        for ending in ("-wal", "-journal"):
            left = self.folder / f"copy.sqlite{ending}"
            left.write_text("of another")
            self.assert_refused(f"{left} exists, and SQLite would take it for a part of the copy: remove it")
            left.unlink()

    def test_there_is_no_folder_for_the_copy(self) -> None:
        fill(self.path, 10, "NULL")
        to = self.folder / "nowhere" / "copy"
        self.assert_refused(f"{to} cannot be written (No such file or directory): see to its folder", to=to)


class DiskTests(CareCase):
    """A disk of 4 MiB for the copy."""

    def setUp(self) -> None:
        super().setUp()
        rig = Rig().__enter__()
        self.addCleanup(rig.close)
        self.disk = rig.disk()

    def test_it_is_too_small(self) -> None:
        fill(self.path, SOME, "NULL")
        to = self.disk / "copy"
        self.assert_refused(f"{to} takes {self.path.stat().st_size:,} bytes, and its disk has room for 4,1", to=to)
        self.assertEqual(list(self.disk.iterdir()), [])

    def test_it_is_filled_up_by_others_meanwhile(self) -> None:
        fill(self.path, 20_000, "NULL")  # 2.6 MB
        check_room = copying._check_room

        def check_and_fill(to: str, size: int) -> None:
            check_room(to, size)
            fill_disk(self.disk / "filler")

        self.patch(copying, "_check_room", check_and_fill)
        to = self.disk / "copy"
        self.assert_refused(f"{to}: there is no room on its disk (database or disk is full): make some", to=to)
        self.assertEqual([path.name for path in self.disk.iterdir()], ["filler"])


class PermissionTests(SynchronousTestCase):
    """As somebody whom permissions bind."""

    @contextmanager
    def unprivileged(self) -> Iterator[Path]:
        """A folder with a journal and a folder `to`, both of that user."""
        folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, folder)
        folder.chmod(0o777)
        user = os.geteuid()
        if user == 0:
            try:
                os.seteuid(65534)
            except OSError as error:
                raise SkipTest(f"permissions do not bind root, who may not become another here: {error}") from None
        try:
            (folder / "journal").mkdir()
            (folder / "to").mkdir()
            fill(folder / "journal" / "jobs", 10, "NULL")
            yield folder
        finally:
            for each in (folder / "journal", folder / "to"):
                each.chmod(0o700)
            os.seteuid(user)

    def assert_refused(self, message: str, folder: Path) -> None:
        outcome = backup(folder / "to" / "copy", folder / "journal" / "jobs")
        self.assertEqual((outcome.status, outcome.out, outcome.err.count("\n")), (1, "", 1), outcome.err)
        self.assertIn(message, outcome.err)

    def test_the_journal_may_not_be_read(self) -> None:
        with self.unprivileged() as folder:
            (folder / "journal" / "jobs").chmod(0)
            self.assert_refused("it cannot be read (unable to open database file)", folder)

    def test_nothing_may_be_made_beside_the_journal(self) -> None:
        with self.unprivileged() as folder:
            (folder / "journal").chmod(0o555)
            self.assert_refused("do this as the user who runs zpipe-web, and see to the permissions", folder)

    def test_nothing_may_be_made_where_the_copy_is_to_be(self) -> None:
        with self.unprivileged() as folder:
            (folder / "to").chmod(0o555)
            self.assert_refused(f"{folder}/to/copy cannot be written (Permission denied): see to its folder", folder)


class ProcessTests(CareCase):
    """In a process of its own."""

    def start(self, stderr: int) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path, "TERM": "xterm", "COLUMNS": "120"}
        popen = subprocess.Popen(
            [*ZPIPE, self.copy, f"--journal={self.path}"], stdout=subprocess.PIPE, stderr=stderr, env=environment
        )
        self.addCleanup(popen.wait)
        self.addCleanup(popen.kill)
        return popen

    def on_terminal(self, act: Callable[[subprocess.Popen[bytes]], object]) -> tuple[int, str, str]:
        """With a terminal for stderr: exit status, stdout, and what the terminal has got."""
        ours, theirs = pty.openpty()
        popen = self.start(theirs)
        os.close(theirs)
        shown, acted = b"", False
        with open(ours, "rb", buffering=0) as terminal:
            while True:
                try:
                    shown += terminal.read(65536)
                except OSError:  # nobody has the other end
                    break
                if b"copying" in shown and not acted:
                    acted = True
                    act(popen)
        out, _ = popen.communicate(timeout=60)
        return popen.returncode, out.decode(), shown.decode()

    def test_a_terminal_is_shown_how_far_it_is(self) -> None:
        fill(self.path, SOME, "NULL")
        status, out, shown = self.on_terminal(lambda popen: None)
        self.assertEqual(status, 0, shown)
        self.assertIn("100,000 jobs unsettled", out)
        self.assertRegex(shown, r"copying .*MB")
        self.assertTrue(self.copy.exists())

    def test_without_a_terminal_there_is_but_the_line_at_the_end(self) -> None:
        fill(self.path, SOME, "NULL")
        out, err = self.start(subprocess.PIPE).communicate(timeout=60)
        self.assertEqual((out.count(b"\n"), err), (1, b""))

    def test_a_signal_ends_it_and_leaves_nothing_behind(self) -> None:
        fill(self.path, 4 * SOME, "NULL")
        for number in (signal.SIGINT, signal.SIGTERM):
            status, out, shown = self.on_terminal(lambda popen, number=number: popen.send_signal(number))
            self.assertEqual((status, out), (128 + number, ""), shown)
            self.assertNotIn("Traceback", shown)
            self.assertEqual(self.names(), set())
