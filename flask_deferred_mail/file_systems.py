"""On what kind of file system a folder lies, as far as the system tells (Linux)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "virtiofs"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "ocfs2", "gfs2"),
    }
)
_NETWORK_FUSE = ("sshfs", "glusterfs", "ceph", "s3fs", "gcsfuse", "rclone", "blobfuse", "juicefs")
_MEMORY = frozenset({"tmpfs", "ramfs"})
_LAYERS = frozenset({"overlay", "overlayfs", "aufs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    place: str
    #: As the kernel calls it: ``ext4``, ``nfs4``, ``overlay``, ``fuse.sshfs``.
    kind: str

    @property
    def is_network(self) -> bool:
        """Other machines may have it mounted too."""
        family, _, driver = self.kind.partition(".")
        return self.kind in _NETWORK or (family == "fuse" and driver.startswith(_NETWORK_FUSE))

    @property
    def is_memory(self) -> bool:
        return self.kind in _MEMORY

    @property
    def is_container_layer(self) -> bool:
        """The writable layer of a container, which is thrown away with it."""
        return self.kind in _LAYERS


def mount_of(folder: Path, mounts: Path = _MOUNTS) -> Mount | None:
    """The file system that holds ``folder`` (an absolute path); ``None`` where nobody tells."""
    try:
        text = mounts.read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    found = None
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = _decoded(fields[1])
        # The last of several mounts on one place hides the others.
        if folder.is_relative_to(place) and (found is None or len(place) >= len(found.place)):
            found = Mount(place, fields[2])
    return found


def _decoded(place: str) -> str:
    """A path as the kernel lists it: blanks and backslashes stand there in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
