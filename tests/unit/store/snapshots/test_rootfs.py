"""Reading a snapshot from the host: as the image would see it, never outside, never blocking."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.trees import Entry, open_descriptors, write_tree
from imgpull.store.snapshots.layer import Journal, LayerTree
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.rootfs import AnyPath, Rootfs


def rootfs_of(*layers: LayerTree, made: Callable[[], Path] = lambda: Path("/nowhere")) -> Rootfs:
    return Rootfs(MergedTree(layers), made, lambda: None)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Rootfs]:
    lower: dict[str, Entry] = {
        "etc/os-release": 'NAME="Grüße"\r\n'.encode(),
        "etc/gone": b"0",
        "usr/lib/x": b"x",
        "lib": "usr/lib",
        "mtab": "/proc/self/mounts",
        "up": "../../../../etc/os-release",
        "absolute": "/etc/os-release",
        "caf\udce9": b"bytes",
        "loop": "loop",
        "dead": "/nothing",
    }
    root = write_tree(tmp_path / "0", lower)
    os.mkfifo(root / "fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    (root / "passwd").symlink_to("fifo")
    marks = Journal()
    marks.whiteout((b"etc",), b"gone")
    upper = write_tree(tmp_path / "1", {"etc/new": b"1"})
    with rootfs_of(LayerTree(root), LayerTree(upper, marks)) as rootfs:
        yield rootfs


@pytest.mark.parametrize(
    "path", ["etc/os-release", "/etc/os-release", "../etc/os-release", "up", "absolute", "//etc/./os-release"]
)
def test_reading_a_file(image: Rootfs, path: str) -> None:
    expected = 'NAME="Grüße"\r\n'
    kinds: list[AnyPath] = [path, path.encode(), pathlib.PurePosixPath(path)]
    for kind in kinds:
        assert image.read_bytes(kind) == expected.encode()
        assert image.read_text(kind) == expected.replace("\r\n", "\n")


def test_the_host_is_never_read(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"host")
    root = write_tree(
        tmp_path / "layer", {"a": str(outside), "b": "../secret", "c/d": f"../..{outside}", "e": "/proc/self/root"}
    )
    with rootfs_of(LayerTree(root)) as rootfs:
        for path in ("a", "b", "c/d", "e/etc/passwd", "../secret", str(outside), "c/../../secret", "/proc/self/fd/0"):
            with pytest.raises(FileNotFoundError):
                rootfs.read_bytes(path)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("none", errno.ENOENT),
        ("etc/gone", errno.ENOENT),
        ("dead", errno.ENOENT),
        ("mtab", errno.ENOENT),
        ("etc", errno.EISDIR),
        ("", errno.EISDIR),
        ("lib", errno.EISDIR),
        ("etc/new/x", errno.ENOTDIR),
        ("etc/new/", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("loop/x", errno.ELOOP),
        ("fifo", errno.EINVAL),
        ("passwd", errno.EINVAL),
        ("socket", errno.EINVAL),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_errors_are_the_systems_own_and_name_the_path(image: Rootfs, path: str, code: int) -> None:
    before = open_descriptors()
    for read in (image.read_bytes, image.read_text, image.open):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            read(path)  # type: ignore[operator]
        assert caught.value.errno == code
        assert type(caught.value) is type(OSError(code, ""))
        assert caught.value.filename == path or code == errno.EINVAL
    assert len(open_descriptors()) <= len(before) + 4


@pytest.mark.skipif(os.geteuid() != 0, reason="making devices needs root")
def test_a_device_is_not_opened(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "layer", {})
    os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with rootfs_of(LayerTree(root)) as rootfs, pytest.raises(OSError, match="not a regular file"):
        rootfs.read_bytes("zero")


def test_open_is_like_the_builtin(image: Rootfs) -> None:
    with image.open("etc/os-release", "rb") as binary:
        assert binary.read(4) == b"NAME"
        binary.seek(0)
        assert binary.readline().endswith(b"\r\n")
    with image.open("etc/os-release", newline="") as text:
        assert text.readlines() == ['NAME="Grüße"\r\n']
    with image.open("etc/os-release", encoding="latin-1") as text:
        assert "Ã¼" in text.read()
    with pytest.raises(UnicodeDecodeError):
        image.read_text("etc/os-release", encoding="ascii")
    assert "?" in image.read_text("etc/os-release", encoding="ascii", errors="replace").replace("\ufffd", "?")


@pytest.mark.parametrize("mode", ["w", "a", "x", "r+", "rb+", "wb", "", "b"])
def test_a_mode_that_would_write_is_refused(image: Rootfs, mode: str) -> None:
    with pytest.raises(ValueError, match="only be read"):
        image.open("etc/new", mode)  # type: ignore[call-overload]


def test_a_file_longer_than_the_limit_is_not_read(image: Rootfs) -> None:
    assert image.read_bytes("usr/lib/x", limit_bytes=1) == b"x"
    with pytest.raises(OSError, match="too large") as caught:
        image.read_text("etc/os-release", limit_bytes=3)
    assert caught.value.errno == errno.EFBIG


def test_stat_and_readlink(image: Rootfs) -> None:
    assert stat.S_ISDIR(image.stat("lib").st_mode)
    assert stat.S_ISLNK(image.stat("lib", follow_symlinks=False).st_mode)
    assert image.stat("lib/x").st_size == 1
    assert image.readlink("lib") == "usr/lib"
    assert image.readlink(b"lib") == b"usr/lib"
    assert image.readlink(pathlib.PurePosixPath("absolute")) == "/etc/os-release"
    with pytest.raises(OSError, match="Invalid") as caught:
        image.readlink("etc")
    assert caught.value.errno == errno.EINVAL
    assert stat.S_ISFIFO(image.stat("passwd").st_mode)


def test_listdir(image: Rootfs) -> None:
    assert image.listdir("etc") == ["new", "os-release"]
    assert image.listdir(b"etc") == [b"new", b"os-release"]
    assert image.listdir("lib") == ["x"]
    assert "caf\udce9" in image.listdir()
    assert image.read_bytes("caf\udce9") == b"bytes"
    for path, error in (("etc/new", NotADirectoryError), ("none", FileNotFoundError)):
        with pytest.raises(error) as caught:
            image.listdir(path)
        assert caught.value.filename == path


def test_walk_is_like_os_walk(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "layer",
        {"a/b/c": b"0", "a/link": "b", "d": None, "f": b"0", "out": "/", "dead": "/no", "loop": "loop", "file": "f"},
    )

    def shown(walk: Iterator[tuple[str, list[str], list[str]]], top: str) -> dict[str, tuple[list[str], list[str]]]:
        return {os.path.relpath(path, top): (sorted(dirs), sorted(files)) for path, dirs, files in walk}

    with rootfs_of(LayerTree(root)) as rootfs:
        assert shown(rootfs.walk(), "/") == shown(os.walk(root), str(root))  # type: ignore[arg-type]
        assert [path for path, _, _ in rootfs.walk("a")] == ["a", "a/b"]
        assert [path for path, _, _ in rootfs.walk("/a/")] == ["/a/", "/a/b"]
        assert list(rootfs.walk("none")) == []
        assert list(rootfs.walk("f")) == []


def test_walk_leaves_out_what_the_caller_takes_away(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "layer", {"a/x": b"0", "b/x": b"0", "c/x": b"0"})
    seen = []
    with rootfs_of(LayerTree(root)) as rootfs:
        for path, directories, _ in rootfs.walk():
            seen.append(path)
            if "b" in directories:
                directories[:] = ["c", "a"]
    assert seen == ["/", "/c", "/a"]


def test_what_walk_and_listdir_give_can_be_opened(image: Rootfs) -> None:
    for path, _, files in image.walk():
        for name in files:
            status = image.stat(os.path.join(path, name), follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                assert len(image.read_bytes(os.path.join(path, name))) == status.st_size


def test_the_path_is_made_once_at_first_use(tmp_path: Path) -> None:
    calls = []

    def made() -> Path:
        calls.append(threading.current_thread().name)
        return tmp_path

    root = write_tree(tmp_path / "layer", {"f": b"0"})
    start = threading.Barrier(4)
    with rootfs_of(LayerTree(root), made=made) as rootfs:
        rootfs.read_bytes("f")
        assert calls == []

        def ask() -> None:
            start.wait()
            assert rootfs.path == tmp_path

        threads = [threading.Thread(target=ask, name=f"asks-{number}") for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(calls) == 1


def test_a_closed_view_gives_nothing(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "layer", {"f": b"0"})
    closed = []
    before = open_descriptors()
    rootfs = Rootfs(MergedTree([LayerTree(root)]), lambda: tmp_path, lambda: closed.append(1))
    rootfs.read_bytes("f")
    rootfs.close()
    rootfs.close()
    assert closed == [1]
    assert open_descriptors() == before
    for use in (
        lambda: rootfs.path,
        lambda: rootfs.read_bytes("f"),
        rootfs.listdir,
        lambda: list(rootfs.walk()),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
