"""file_systems.py: which file system holds a folder, from the kernel's list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_deferred_mail.file_systems import Mount, mount_of

MOUNTS = """\
overlay / overlay rw 0 0
server:/export /srv nfs4 rw 0 0
/dev/sda1 /srv/local ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
/dev/sdb1 /run ext4 rw 0 0
host:/ /my\\040mail fuse.sshfs rw 0 0
broken
"""


@pytest.fixture
def mounts(tmp_path):
    """A file like /proc/self/mounts."""
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("folder", "mount"),
    [
        ("/var/lib/app", Mount("/", "overlay")),
        ("/srv/app", Mount("/srv", "nfs4")),
        ("/srv", Mount("/srv", "nfs4")),
        ("/srvother", Mount("/", "overlay")),
        ("/srv/local/app", Mount("/srv/local", "ext4")),
        ("/run/app", Mount("/run", "ext4")),
        ("/my mail/app", Mount("/my mail", "fuse.sshfs")),
    ],
)
def test_the_nearest_mount_holds_the_folder(mounts, folder, mount):
    """The longest place wins, the later of two on one place; escapes are read."""
    assert mount_of(Path(folder), mounts) == mount


def test_a_system_without_the_list_says_nothing(tmp_path):
    """No guess."""
    assert mount_of(Path("/srv"), tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("kind", "network", "memory", "layer"),
    [
        ("ext4", False, False, False),
        ("nfs4", True, False, False),
        ("cifs", True, False, False),
        ("fuse.sshfs", True, False, False),
        ("fuse.encfs", False, False, False),
        ("tmpfs", False, True, False),
        ("overlay", False, False, True),
    ],
)
def test_what_is_wrong_with_a_file_system(kind, network, memory, layer):
    """SQLite's locks need a local disk, and a row needs one that stays."""
    mount = Mount("/", kind)
    assert (mount.is_network, mount.is_memory, mount.is_container_layer) == (network, memory, layer)
