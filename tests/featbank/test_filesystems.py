"""The file system of a path: tables of mounts against types read off by eye, and a real mount."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from featbank import filesystems
from featbank.filesystems import file_system, network_file_system, parsed_output, parsed_table

TABLE = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
23 22 0:21 / /proc rw,relatime - proc proc rw
30 22 0:50 / {0}/home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 30 0:51 / {0}/home/scratch rw - lustre 10.0.0.1@o2ib:/fs rw,flock
32 22 0:52 / {0}/a\\040disk\\134x\\303\\251 rw - fuse.sshfs me@host: rw,user_id=0
33 22 0:50 /me {0}/bound rw,relatime - nfs4 server:/home rw
34 22 0:53 / {0}/twice rw - nfs server:/x rw
35 34 0:54 / {0}/twice rw - tmpfs none rw
36 22 0:55 / {0}/local rw - fuse.fuse-overlayfs fuse-overlayfs rw
37 22 0:56 / {0}/bucket rw - fuse mountpoint-s3 ro
38 22 0:57 / {0}/share rw - cifs //server/share rw
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the mounts of the table above seem to be."""
    folder = tmp_path.resolve()
    (folder / "table").write_text(TABLE.format(str(folder).replace(" ", "\\040")))
    monkeypatch.setattr(filesystems, "MOUNTS", folder / "table")
    return folder


def test_the_last_mount_on_the_way_counts(place: Path) -> None:
    """Reference: the table, read by hand; nothing of it exists but its folder."""
    expected = {
        "r.sqlite": "ext4",
        "home": "nfs4",
        "home/me/new/r.sqlite": "nfs4",
        "homes/r.sqlite": "ext4",
        "home/scratch/r.sqlite": "lustre",
        "a disk\\xé/r.sqlite": "fuse.sshfs",
        "bound/r.sqlite": "nfs4",
        "twice/r.sqlite": "tmpfs",
        "local/r.sqlite": "fuse.fuse-overlayfs",
        "bucket/r.sqlite": "fuse",
        "share/r.sqlite": "cifs",
    }
    assert {name: file_system(place / name) for name in expected} == expected
    shared = {kind for name in expected if (kind := network_file_system(place / name))}
    assert shared == {"nfs4", "lustre", "fuse.sshfs", "fuse", "cifs"}


def test_links_are_followed(place: Path) -> None:
    """Reference: where they lead, also before a file is there."""
    (place / "link").symlink_to(place / "home" / "scratch")
    (place / "r.sqlite").symlink_to("share/r.sqlite")
    assert file_system(place / "link" / "new.sqlite") == "lustre"
    assert file_system(place / "r.sqlite") == "cifs"


def test_what_is_no_table(place: Path) -> None:
    """Reference: nothing is known of a path that no mount contains."""
    assert parsed_table(b"\n22 1 254:0 /\nno - line\n\xff\xfe") == []
    (place / "table").write_text("")
    assert file_system(place) is None
    assert network_file_system(place) is None


def test_what_mount_prints_on_macos() -> None:
    """Reference: lines as macOS prints them."""
    text = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
//me@server/the share on /Volumes/the share (1) (smbfs, nodev, nosuid, mounted by me)
server:/export on /private/tmp/nfs (nfs)
"""
    assert parsed_output(text) == [
        ("/", "apfs"),
        ("/System/Volumes/Data/home", "autofs"),
        ("/Volumes/the share (1)", "smbfs"),
        ("/private/tmp/nfs", "nfs"),
    ]


def test_a_real_mount(tmp_path: Path) -> None:
    """Reference: the type it was mounted with, at a name with a space; a bind of it elsewhere."""
    disk, bound = tmp_path / "a disk", tmp_path / "bound"
    outside = file_system(tmp_path)
    for folder, options in ((disk, ["-t", "tmpfs", "none"]), (bound, ["--bind", str(disk)])):
        folder.mkdir()
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("file systems may not be mounted here")
    try:
        assert file_system(disk / "r.sqlite") == file_system(bound / "r.sqlite") == "tmpfs"
        assert file_system(tmp_path / "r.sqlite") == outside
    finally:
        for folder in (bound, disk):
            subprocess.run(["umount", "-l", str(folder)], check=True)
