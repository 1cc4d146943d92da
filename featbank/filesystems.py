"""The file system that a path lies on, and whether other machines may share it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""The mounts that this process sees, on Linux: proc(5)."""

NETWORK = (
    "9p acfs afpfs afs beegfs beegfs_nodev ceph cifs coda cvfs davfs dvs fhgfs fuse gfs2 "
    "glusterfs gpfs kafs lustre lustre_lite mmfs ncpfs nfs nfs4 ocfs2 orangefs panfs pvfs2 smb2 "
    "smb3 smbfs vboxsf virtiofs vmhgfs webdav wekafs"
)
"""File systems of networks and clusters, and those that a virtual machine shares with its host."""

NETWORK_FUSE = (
    "afpfs-ng alluxio blobfuse blobfuse2 ceph ceph-fuse curlftpfs cvmfs2 davfs davfs2 drive "
    "gcsfuse geesefs glusterfs goofys grpcfuse gvfsd-fuse hdfs juicefs lizardfs mfs moosefs "
    "objectivefs osxfs quobyte rclone s3fs s3ql seaweedfs smbnetfs sshfs vmhgfs-fuse weed"
)
"""Those of user space, whose types are ``fuse.sshfs`` and so on; the clients of some object stores
call theirs no more than ``fuse``."""

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_PRINTED = re.compile(r"^.* on (/.*) \(([^,)]+).*\)$", re.MULTILINE)

Mounts = list[tuple[str, str]]
"""Mount points and types, in the order of mounting."""


def file_system(path: str | os.PathLike[str]) -> str | None:
    """Type of the file system that a path lies on, as ``mount`` names it; None if unknown.

    Links are followed. What does not exist yet will lie where its nearest existing folder does.
    """
    place, kind, length = os.path.realpath(path), None, 0
    for point, other in _mounts():
        within = place == point or place.startswith(point.rstrip("/") + "/")
        if within and len(point) >= length:  # at the same point, the last one covers the others
            kind, length = other, len(point)
    return kind


def network_file_system(path: str | os.PathLike[str]) -> str | None:
    """Type of the file system that a path lies on if other machines may share it; else None."""
    kind = file_system(path) or ""
    name, _, of_user_space = kind.lower().partition(".")
    if of_user_space:
        return kind if of_user_space in NETWORK_FUSE.split() else None
    return kind if name in NETWORK.split() else None


def parsed_table(table: bytes) -> Mounts:
    """The mounts of a table of Linux: number, parent, device, root, mount point, options, then
    after a dash the type and more. Spaces and backslashes in names are octal, ``\\040``."""
    mounts = []
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        if after and len(fields) > 4:
            point = _ESCAPED.sub(lambda code: bytes([int(code[1], 8) & 255]), fields[4])
            mounts.append((os.fsdecode(point), os.fsdecode(after.split(b" ")[0])))
    return mounts


def parsed_output(text: str) -> Mounts:
    """The mounts that ``mount`` prints on macOS: ``//me@server/x on /Volumes/x (smbfs, nodev)``."""
    return _PRINTED.findall(text)


def _mounts() -> Mounts:
    try:
        return parsed_table(MOUNTS.read_bytes())
    except OSError:
        return parsed_output(_printed())


def _printed() -> str:
    """Output of ``mount``; nothing where there is no such command."""
    try:
        done = subprocess.run(["mount"], capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return os.fsdecode(done.stdout)
