"""On which kind of file system a journal is: what the system tells, and real mounts."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.rig import Rig
from tests.journal_kit import JournalCase
from zpipeline.journal import mounts
from zpipeline.journal.mounts import NETWORK, kind_of, kind_of_mount, warn_of_network

#: Lines of several machines together; proc(5) says how they are to be read.
MOUNTS = """\
22 27 0:21 / /proc rw,relatime shared:13 - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 0:40 / /srv/my\\040jobs rw,relatime shared:20 master:3 propagate_from:2 - nfs4 host:/my\\040jobs rw,vers=4.2
29 28 0:41 / /srv/my\\040jobs rw,relatime - tmpfs tmpfs rw
30 27 254:0 /var/jobs /srv/here rw - ext4 /dev/vda rw
31 27 0:42 / /mnt/c rw,noatime - 9p drvfs rw,aname=drvfs;path=C:\\;uid=0
32 27 0:43 / /mnt/share rw,relatime shared:5 - cifs //host/share rw,username=a\\040-\\040b
33 27 0:44 / /mnt/there rw,nosuid,nodev - fuse.sshfs ada@host:/ rw,user_id=1000
34 27 0:45 / /mnt/disk rw - fuseblk /dev/sdb1 rw
127 27 0:46 / /mnt/more rw - btrfs /dev/sdc rw,subvol=/a - b
128 27 0:47 / /cut/short rw,relatime
"""


class KindOfMountTests(SynchronousTestCase):
    def test_it_stands_after_the_dash_however_many_fields_are_before(self) -> None:
        kinds = [kind_of_mount(MOUNTS, str(number)) for number in (22, 27, 28, 29, 30, 31, 32, 33, 34, 127)]
        self.assertEqual(
            kinds, ["proc", "ext4", "nfs4", "tmpfs", "ext4", "9p", "cifs", "fuse.sshfs", "fuseblk", "btrfs"]
        )

    def test_nothing_is_known_of_a_mount_that_is_not_there(self) -> None:
        for number in ("1", "2", "7", "0:21", ""):
            self.assertIsNone(kind_of_mount(MOUNTS, number))
        self.assertIsNone(kind_of_mount("", "27"))

    def test_nothing_is_known_of_a_line_that_is_cut_short(self) -> None:
        self.assertIsNone(kind_of_mount(MOUNTS, "128"))

    def test_those_of_a_network_are_told_from_those_of_a_disk(self) -> None:
        kinds = {kind_of_mount(MOUNTS, str(number)) for number in range(200)}
        self.assertEqual(kinds & NETWORK, {"nfs4", "9p", "cifs", "fuse.sshfs"})


class KindOfTests(SynchronousTestCase):
    """Of folders."""

    def setUp(self) -> None:
        self.rig = Rig()
        self.rig.__enter__()
        self.addCleanup(self.rig.close)

    def mount(self, *words: object) -> None:
        """Mount something; it ends with the rig."""
        mounted = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
        if mounted.returncode:
            raise SkipTest(f"this cannot be mounted here: {mounted.stderr.strip()}")
        self.rig.callback(subprocess.run, ["umount", "-l", str(words[-1])], check=True)

    def folder(self, name: str) -> Path:
        folder = self.rig.folder / name
        folder.mkdir()
        return folder

    def test_a_mount_is_of_its_own_kind_and_so_is_what_is_below_it(self) -> None:
        disk = self.rig.disk()
        (disk / "a b").mkdir()
        for folder in (disk, disk / "a b"):
            self.assertEqual(kind_of(str(folder)), "tmpfs")
        self.assertEqual(kind_of("/proc"), "proc")

    def test_a_folder_that_is_bound_elsewhere_is_of_the_same_kind_there(self) -> None:
        disk, here = self.rig.disk(), self.folder("bound here")
        before = kind_of(str(self.rig.folder))
        self.mount("--bind", disk, here)
        self.assertEqual(kind_of(str(here)), "tmpfs")
        (disk / "there").mkdir()
        self.mount("--bind", self.rig.folder, disk / "there")
        self.assertEqual(kind_of(str(disk / "there")), before)

    def test_what_is_mounted_last_counts(self) -> None:
        disk = self.rig.disk()
        self.mount("-t", "ramfs", "ramfs", disk)
        self.assertEqual(kind_of(str(disk)), "ramfs")

    def test_a_mount_that_another_one_hides_does_not_count(self) -> None:
        outer = self.folder("outer")
        (outer / "inner").mkdir()
        self.mount("-t", "ramfs", "ramfs", outer / "inner")
        self.mount("-t", "tmpfs", "tmpfs", outer)
        (outer / "inner").mkdir()
        self.assertEqual(kind_of(str(outer / "inner")), "tmpfs")

    def test_nothing_is_known_of_a_folder_that_is_not_there(self) -> None:
        self.assertIsNone(kind_of(str(self.rig.folder / "nowhere")))

    def sshfs(self) -> Path:
        """A folder with a mount of the kind ``fuse.sshfs``, which nobody serves."""
        folder = self.folder("there")
        try:
            fuse = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            raise SkipTest(f"no FUSE here: {error}") from None
        try:
            library = ctypes.CDLL(None, use_errno=True)
            options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
            if library.mount(b"ada@host:/", os.fsencode(folder), b"fuse.sshfs", 0, options):
                raise SkipTest(f"FUSE may not be mounted here: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(fuse)
        self.rig.callback(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def test_a_file_on_a_network_is_warned_of_also_by_a_link(self) -> None:
        there, link = self.sshfs(), self.rig.folder / "link"
        link.symlink_to(there / "jobs.sqlite")
        lines: list[str] = []

        def observe(event: LogEvent) -> None:
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for path in (there / "jobs.sqlite", link):
            warn_of_network(str(path))
            [line] = lines
            self.assertIn(f"the journal {path} is on a network file system (fuse.sshfs)", line)
            self.assertIn("to a local disk, and name it there with --journal", line)
            lines.clear()


class JournalTests(JournalCase):
    """The warning, as a journal is opened."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: LogEvent) -> None:
        self.lines += [formatEvent(event)] if "network file system" in formatEvent(event) else []

    def test_opening_it_warns_once(self) -> None:
        kind = kind_of(str(self.folder))
        if kind is None:
            raise SkipTest("nothing tells here of what kind a file system is")
        self.patch(mounts, "NETWORK", {kind})
        self.opened()
        [line] = self.lines
        self.assertIn(f"the journal {self.path} is on a network file system ({kind})", line)

    def test_there_is_no_warning_of_a_local_disk(self) -> None:
        self.opened()
        self.assertEqual(self.lines, [])
