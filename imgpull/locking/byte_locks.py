"""Locks on the bytes of one file, held by this process against all others: Linux's open file description locks.

A lock belongs to the open file description (``fcntl(2)``, ``F_OFD_SETLK``, Linux 3.15), so one descriptor carries any
number of them, closing another descriptor of the file drops none (as it would with POSIX record locks), and the kernel
drops all of them when the process dies. A lock needs no byte to be there: the file stays empty.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct

from imgpull.errors import StoreError, StoreFullError

__all__ = ["ByteLocks"]

# struct flock: l_type, l_whence, l_start, l_len, l_pid, in the C compiler's own alignment. l_pid must be 0.
_FLOCK = struct.Struct("hhqqi4x")
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # a sandbox's kernel, a file system in user space

_logger = logging.getLogger("imgpull.locking")


class ByteLocks:
    """The locks that this process holds on bytes of the file at ``path``, which is made when first needed.

    Nothing here knows of threads: a byte that this process has locked is locked once more without complaint, and one
    unlock ends it. The file is never removed, so all who open its path open the same one.

    Where the kernel knows no such locks, every byte can be had: they save work, and no result depends on them.
    """

    __slots__ = ("_fd", "_supported", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._fd = -1
        self._supported = True

    def try_lock(self, offset: int) -> bool:
        """Lock one byte; False where another process has it. Raises StoreError."""
        try:
            self._change(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, offset)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._fault(error) from error
        return True

    def lock(self, offset: int) -> None:
        """Lock one byte; wait in the kernel, out of reach, while another process has it. Raises StoreError."""
        try:
            self._change(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, offset)
        except OSError as error:
            raise self._fault(error) from error

    def unlock(self, offset: int) -> None:
        """Give one byte up."""
        if self._fd >= 0:
            self._change(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, offset)

    def close(self) -> None:
        """Close the file. That gives up every byte, but not in a forked child, whose parent has the description too."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _change(self, command: int, kind: int, offset: int) -> None:
        if not self._supported:
            return
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.fcntl(self._fd, command, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._supported = False
            _logger.warning("%s can't be locked (%s): other processes may do the same work", self.path, error.strerror)

    def _fault(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left to make {self.path}: free space or quota there, and try again"
            return StoreFullError(message, path=self.path)
        return StoreError(f"cannot lock {self.path}: {error.strerror or error}", path=self.path)
