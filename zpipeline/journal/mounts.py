"""Which kind of file system a journal is on, and a warning where it is one of a network.

Linux tells it: which mount a folder is on in ``/proc/self/fdinfo``, what is mounted there in ``/proc/self/mountinfo``
(proc(5) has both). So it does not matter what is mounted over what, nor by which name the folder was found.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.logger import Logger

_OF_THE_KERNEL = [
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "davfs"),
    *("ceph", "lustre", "gpfs", "beegfs", "beegfs_nodev", "orangefs", "pvfs2", "panfs", "wekafs"),
    *("ocfs2", "gfs", "gfs2"),
    *("vboxsf", "vmhgfs", "prl_fs"),  # a virtual machine's, shared with its host
]
_OF_FUSE = [
    *("sshfs", "glusterfs", "cephfs", "ceph", "ceph-fuse", "juicefs", "mfs", "lizardfs", "seaweedfs", "quobyte"),
    *("rclone", "s3fs", "goofys", "gcsfuse", "mount-s3", "blobfuse", "blobfuse2"),
    *("davfs", "davfs2", "curlftpfs", "smbnetfs", "gvfsd-fuse", "vmhgfs-fuse", "grpcfuse"),
]

#: Kinds of file systems that several machines share, as mountinfo names them.
NETWORK = frozenset([*_OF_THE_KERNEL, *(f"fuse.{name}" for name in _OF_FUSE)])

_WHY = (
    "SQLite needs memory that only processes of one host can share, and locks, which are not to be relied on there, so "
    "jobs may be lost; stop this, move the journal to a local disk, and name it there with --journal"
)

log = Logger()


def warn_of_network(path: str) -> None:
    """Log a warning if a file is on a network file system.

    :param path: of the file; the links in it are followed.
    """
    kind = kind_of(os.path.dirname(os.path.realpath(path)))
    if kind in NETWORK:
        log.warn(
            "the journal {path} is on a network file system ({kind}): {why}",
            path=path,
            kind=kind,
            why=_WHY,
        )


def kind_of(folder: str) -> str | None:
    """Which kind of file system a folder is on: ``ext4``, ``nfs4``, ``fuse.sshfs``; None if nothing tells."""
    try:
        opened = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY))
        try:
            described = Path(f"/proc/self/fdinfo/{opened}").read_text()
        finally:
            os.close(opened)
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:  # it may be no Linux
        return None
    mount = re.search(r"^mnt_id:\s*(\d+)$", described, re.MULTILINE)
    return None if mount is None else kind_of_mount(mounts, mount[1])


def kind_of_mount(mounts: str, number: str) -> str | None:
    """Which kind of file system is mounted there; None if that is not told.

    :param mounts: what ``/proc/self/mountinfo`` has: a line for each mount, with its number first, and the kind of its
        file system after a dash. How many fields there are before the dash differs.
    """
    for line in mounts.split("\n"):
        mount, _, rest = line.partition(" ")
        if mount == number:
            _, found, system = rest.partition(" - ")
            return system.split(" ")[0] if found else None
    return None
