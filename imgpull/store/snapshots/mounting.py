"""Overlay mounts, by the system calls themselves: nothing is started, and the working directory is never changed.

Two ways are known, the better first: ``fsconfig(2)`` takes lower directories one by one (``lowerdir+``, Linux 6.7),
``mount(2)`` what fits into a page of options, some 220. Linux only; elsewhere :func:`may_mount` is False.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["may_mount", "mount_overlay", "unmount"]

# From the kernel's include/uapi/linux/mount.h; the numbers of these system calls are one on all architectures.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_CLOSE_ON_EXEC = 1
_SET_STRING, _CREATE = 1, 6
_FROM_EMPTY_PATH = 4
_HERE = -100
_DETACH, _NO_FOLLOW = 2, 8
_MOST = 500
"""Lower directories (OVL_MAX_STACK in the kernel's fs/overlayfs/params.h)."""
_ELSEWISE = frozenset({errno.ENOSYS, errno.EINVAL})
"""What a kernel says that has no fsopen (before 5.2) or no ``lowerdir+`` (before 6.7), and any to a value that is
longer than 255 bytes."""
_NOT_MOUNTED = frozenset({errno.EINVAL, errno.ENOENT, errno.EPERM})


def may_mount() -> bool:
    """Whether this process may mount and the kernel has overlayfs, as far as can be told without mounting."""
    if sys.platform != "linux":
        return False
    try:
        os.close(_call(_FSOPEN, b"overlay", _CLOSE_ON_EXEC))
    except OSError as error:
        return error.errno == errno.ENOSYS
    return True


def mount_overlay(lowers: Sequence[str], settings: Mapping[str, str], target: Path) -> None:
    """Mount ``lowers`` (the top first, at least two) on the directory ``target``. Where ``settings`` name no
    ``upperdir``, nothing can be written there.

    Raises OSError: E2BIG for more than 500, and what else the kernel refuses."""
    if len(lowers) > _MOST:
        raise OSError(errno.E2BIG, f"the kernel stacks {_MOST} directories, not {len(lowers)}")
    if _by_fsconfig(lowers, settings, target):
        return
    with _short_names(lowers) as short:
        if not _by_fsconfig(short, settings, target):
            _by_mount(short, settings, target)


def unmount(target: Path) -> None:
    """Take away all that is mounted on ``target``, in use or not; nothing there is no error.

    Nor is it one where this process may not: whoever removes the directory then finds a mount in it, and stops."""
    if sys.platform != "linux":
        return
    libc, place = _libc(), os.fsencode(target)
    while libc.umount2(place, _NO_FOLLOW) == 0 or (
        ctypes.get_errno() == errno.EBUSY and libc.umount2(place, _NO_FOLLOW | _DETACH) == 0
    ):
        pass
    if ctypes.get_errno() not in _NOT_MOUNTED:
        raise _failure(str(target))


@contextlib.contextmanager
def _short_names(paths: Sequence[str]) -> Iterator[list[str]]:
    """Of open descriptors: links would be as short, but to make one took 40 times as long."""
    with contextlib.ExitStack() as closing:
        names = []
        for path in paths:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            closing.callback(os.close, fd)
            names.append(f"/proc/self/fd/{fd}")
        yield names


def _by_fsconfig(lowers: Sequence[str], settings: Mapping[str, str], target: Path) -> bool:
    """False where another way may do better. Raises OSError."""
    try:
        mount = _configured([*settings.items(), *(("lowerdir+", lower) for lower in lowers)])
    except OSError as error:
        if error.errno in _ELSEWISE:
            return False
        raise
    try:
        _call(_MOVE_MOUNT, mount, b"", _HERE, os.fsencode(target), _FROM_EMPTY_PATH)
    finally:
        # Open, it would keep the mount busy, and make each unmounting a lazy one.
        os.close(mount)
    return True


def _configured(settings: Sequence[tuple[str, str]]) -> int:
    """Descriptor of an overlay mount that is nowhere yet."""
    context = _call(_FSOPEN, b"overlay", _CLOSE_ON_EXEC)
    try:
        for key, value in settings:
            _call(_FSCONFIG, context, _SET_STRING, key.encode(), os.fsencode(value), 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOSE_ON_EXEC, 0)
    finally:
        os.close(context)


def _by_mount(lowers: Sequence[str], settings: Mapping[str, str], target: Path) -> None:
    options = ",".join([f"lowerdir={':'.join(lowers)}", *(f"{key}={value}" for key, value in settings.items())])
    if len(options) >= os.sysconf("SC_PAGE_SIZE"):
        # The kernel would cut them and mount what is left.
        raise OSError(errno.E2BIG, f"{len(lowers)} lower directories are more than a page of options holds")
    if _libc().mount(b"overlay", os.fsencode(target), b"overlay", 0, os.fsencode(options)) != 0:
        raise _failure(str(target))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call that the C library may not know yet (glibc has these since 2.36). Raises OSError."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    libc = _libc()
    answer = int(libc.syscall(ctypes.c_long(number), *converted))
    if answer < 0:
        raise _failure(None)
    return answer


def _failure(path: str | None) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), path)
