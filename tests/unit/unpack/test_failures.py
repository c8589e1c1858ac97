"""Errors of the system and of the source, while a layer is applied."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.archives import LAYER, LIMITS, Chain, F, archive
from imgpull.errors import (
    ImgpullError,
    RegistryUnavailableError,
    StoreError,
    StoreFullError,
    UnpackError,
    UnsafeEntryError,
)
from imgpull.store.snapshots.merged import MergedTree
from imgpull.unpack.applier import Applier
from imgpull.unpack.assumption import KnownLinks
from imgpull.unpack.refusals import from_os_error
from imgpull.unpack.tar import TarReader


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.ENAMETOOLONG, UnsafeEntryError),
        (errno.ELOOP, UnsafeEntryError),
        (errno.EMLINK, UnsafeEntryError),
        (errno.EIO, StoreError),
        (errno.EMFILE, StoreError),
    ],
)
def test_system_errors_are_typed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[ImgpullError]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", fail)
    with pytest.raises(kind) as caught:
        chain.apply(F("etc/x", b"data"))
    monkeypatch.undo()
    assert type(caught.value) is kind
    assert "etc/x" in str(caught.value)
    if isinstance(caught.value, UnpackError):
        assert (caught.value.layer, caught.value.entry) == (LAYER, "etc/x")


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The real thing: a tiny tmpfs."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs to mount a tmpfs")
    try:
        with pytest.raises(StoreFullError):
            Chain(tmp_path).apply(F("x", bytes(1 << 20)))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_short_writes_are_continued(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, data[:100]))
    chain.apply(F("x", b"0123456789" * 500))
    monkeypatch.undo()
    assert chain.read("x") == b"0123456789" * 500


def test_errors_of_the_source_pass_through(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield archive(F("x", bytes(3000)))[:1500]
        raise RegistryUnavailableError("gone", registry="example.com")

    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with (
            MergedTree([]) as lower,
            Applier(root_fd, KnownLinks(lower), privileged=False, limits=LIMITS, layer=LAYER) as applier,
            pytest.raises(RegistryUnavailableError, match="gone"),
        ):
            applier.make(TarReader(broken(), LIMITS, LAYER))
    finally:
        os.close(root_fd)


def test_too_many_open_files_have_a_remedy() -> None:
    assert "ulimit -n" in str(from_os_error(LAYER, b"x", OSError(errno.EMFILE, "Too many open files")))


def test_a_hostile_name_stays_on_one_line() -> None:
    error = from_os_error(LAYER, b"\x1b[2Jx\ny" + b"n" * 500, OSError(errno.EIO, "I/O error"))
    assert "\x1b" not in str(error) and "\n" not in str(error)
    assert len(str(error)) < 500
