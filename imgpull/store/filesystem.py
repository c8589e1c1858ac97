"""What the store asks of a file system: locks on files, private directories, its kind; and what goes wrong with it.

Why flock and not lockf: a POSIX record lock is lost when *any* descriptor of that file is closed in the process, which
a library cannot rule out. flock belongs to the open file description, so it outlives nothing but that, with one
exception: a forked child shares the description. :class:`FileLock` closes its descriptor in the child (without
unlocking, which would unlock the parent's) and always unlocks before it closes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Self

from imgpull.errors import StoreError, StoreFullError

__all__ = [
    "FileLock",
    "fault",
    "filesystem_magic",
    "make_directory",
    "refuse_network_filesystem",
    "replace_file",
    "translated",
]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DIRECTORY_MODE = 0o700

# statfs(2) f_type, from the kernel's include/uapi/linux/magic.h and the file systems' own headers.
_FUSE = 0x65735546
_NETWORK: dict[int, str] = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x00C36400: "CephFS",
    0x01021997: "9P",
    0x73757245: "Coda",
    0x564C: "NCP",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x20030528: "OrangeFS",
    0x19830326: "BeeGFS",
}
# All of FUSE has one magic number; what it is stands in mountinfo. The others (ntfs-3g, fuse-overlayfs …) are local.
_NETWORK_FUSE = frozenset(
    f"fuse.{name}"
    for name in ("sshfs", "s3fs", "glusterfs", "rclone", "gcsfuse", "blobfuse", "davfs", "curlftpfs", "juicefs")
)


def fault(error: OSError, doing: str, path: str | os.PathLike[str]) -> StoreError:
    """The store's error for an ``OSError``; ``doing`` completes "cannot …". A StoreError is returned as it is."""
    if isinstance(error, StoreError):
        return error
    place = os.fspath(path)
    if error.errno in _FULL:
        return StoreFullError(f"no space left to {doing} {place}: free space or quota there, and try again", path=place)
    return StoreError(f"cannot {doing} {place}: {error.strerror or error}", path=place)


@contextlib.contextmanager
def translated(doing: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns any OSError in the body into StoreError or StoreFullError: ``with translated("write", path): …``."""
    try:
        yield
    except OSError as error:
        found = fault(error, doing, path)
        if found is error:
            raise
        raise found from error


class FileLock:
    """An exclusive flock on one file, taken and released any number of times, by one thread at a time.

    The file is made when it is missing and never removed: whoever unlinks a lock file splits its waiters into two
    groups that each believe they hold it.
    """

    __slots__ = ("__weakref__", "_fd", "path")

    def __init__(self, path: str | os.PathLike[str], *, fd: int = -1) -> None:
        self.path = os.fspath(path)
        self._fd = fd
        _forget_in_child.add(self)

    @classmethod
    def try_open(cls, path: str | os.PathLike[str], flags: int) -> Self | None:
        """Open a data file and hold it; None where somebody holds it. Raises OSError (FileNotFoundError …) as it is."""
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd=fd)

    @property
    def fd(self) -> int:
        """The descriptor; -1 once closed, and in a forked child."""
        return self._fd

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; False only where ``blocking`` is False and somebody has it. Raises StoreError.

        Blocking waits in the kernel, in the order of arrival: nobody polls, so nobody starves.
        """
        with translated("lock", self.path):
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def release(self) -> None:
        """Give it up; the file stays open for the next time."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give it up and close the file. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _forget(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_forget_in_child: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in list(_forget_in_child):
        lock._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


def make_directory(path: str | os.PathLike[str]) -> bool:
    """Make one directory with mode 0700 whatever the umask; False where it is there already. Raises OSError.

    Image content may hold setuid programs and secrets, so nobody else may walk in (containerd CVE-2021-41103).
    """
    try:
        os.mkdir(path, _DIRECTORY_MODE)
    except FileExistsError:
        return False
    # mkdir's mode is cut by the umask, and os.umask is the whole process's: not ours to change.
    os.chmod(path, _DIRECTORY_MODE)
    return True


def replace_file(
    path: str | os.PathLike[str], scratch: str | os.PathLike[str], raw: bytes, mode: int = 0o600, *, sync: bool = False
) -> None:
    """Put a small file at ``path`` in one step, whatever is there. ``scratch``: where it is written first; nobody else
    may use that name meanwhile, and a crash leaves it to whoever does next. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(scratch, flags, mode), "wb") as file:
        file.write(raw)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.rename(scratch, path)


def filesystem_magic(path: str | os.PathLike[str]) -> int | None:
    """``statfs(2)``'s ``f_type``; None where this system has no such number (macOS)."""
    if sys.platform != "linux":
        return None
    import ctypes

    class _Statfs(ctypes.Structure):
        _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 256))

    answer = _Statfs()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), ctypes.byref(answer)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(path))
    return int(answer.f_type) & 0xFFFFFFFF


def refuse_network_filesystem(path: str | os.PathLike[str]) -> None:
    """Raises StoreError where ``path`` lies on a network or cluster file system.

    SQLite's write-ahead log lives in memory shared by the processes of *one* machine (sqlite.org/wal.html), and flock
    over a network is emulated or local depending on mount options: two machines would corrupt the database.
    """
    magic = filesystem_magic(path)
    kind = _NETWORK.get(magic) if magic is not None else None
    if magic == _FUSE:
        fuse = _mounted_kind(path)
        kind = fuse if fuse in _NETWORK_FUSE else None
    if kind is not None:
        place = os.fspath(path)
        raise StoreError(
            f"the store {place} lies on a network file system ({kind}), where its database would be damaged: "
            "put it on a local disk with --store DIR or IMGPULL_HOME=DIR",
            path=place,
        )


def _mounted_kind(path: str | os.PathLike[str]) -> str:
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            # proc(5): "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw"
            before, _, after = line.partition(" - ")
            if before.split(" ")[2] == wanted:
                return after.split(" ")[0]
    return ""
