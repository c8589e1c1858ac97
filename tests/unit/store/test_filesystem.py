"""Locks on files, private directories, the kind of a file system."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fakes import scripts
from imgpull.errors import StoreError, StoreFullError
from imgpull.store import filesystem
from imgpull.store.durability import SYNCS
from imgpull.store.filesystem import FileLock, fault, make_directory, refuse_network_filesystem, translated

LOOPBACK_PROBE = """
    from imgpull.store.filesystem import FileLock
    print(FileLock(sys.argv[1]).acquire(blocking=False))
"""


class TestFileLock:
    def test_one_at_a_time_whoever_asks(self, tmp_path: Path) -> None:
        first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        with first:
            assert second.acquire(blocking=False) is False
            assert scripts.run(LOOPBACK_PROBE, tmp_path / "lock") == "False\n"
        assert second.acquire(blocking=False) is True
        second.close()
        assert scripts.run(LOOPBACK_PROBE, tmp_path / "lock") == "True\n"
        first.close()
        first.close()

    def test_a_symlink_is_not_followed(self, tmp_path: Path) -> None:
        os.symlink(tmp_path / "victim", tmp_path / "lock")
        with pytest.raises(StoreError, match="cannot lock"):
            FileLock(tmp_path / "lock").acquire()
        assert not (tmp_path / "victim").exists()

    @pytest.mark.parametrize("who_ends_first", ["parent", "child"])
    def test_a_forked_child_neither_keeps_it_nor_gives_it_up(self, tmp_path: Path, who_ends_first: str) -> None:
        source = """
            import os, subprocess
            from imgpull.store.filesystem import FileLock
            path, who = sys.argv[1:]
            lock = "import fcntl, sys\\nfcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            probe = [sys.executable, "-c", lock, path]
            free = lambda: subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0
            lock = FileLock(path)
            lock.acquire()
            waits, tells = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(tells)
                if who == "child":
                    lock.close()
                else:
                    os.read(waits, 1)
                os._exit(0)
            if who == "child":
                os.waitpid(child, 0)
                print(free())
            else:
                os.close(lock.fd)  # as if it were killed: nobody says LOCK_UN
                print(free())
                os.close(tells)
                os.waitpid(child, 0)
        """
        said = scripts.run(source, tmp_path / "lock", who_ends_first, options=("-W", "ignore"))
        assert said == {"parent": "True\n", "child": "False\n"}[who_ends_first]


class TestMakeDirectory:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
    def test_it_is_private_whatever_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            assert make_directory(tmp_path / "new") is True
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700

    def test_one_that_is_there_is_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "old").chmod(0o751)
        assert make_directory(tmp_path / "old") is False
        assert stat.S_IMODE(os.stat(tmp_path / "old").st_mode) == 0o751


class TestNetworkFilesystems:
    def test_the_local_one_is_known_and_accepted(self, tmp_path: Path) -> None:
        assert filesystem.filesystem_magic(tmp_path)
        assert filesystem.filesystem_magic("/proc") == 0x9FA0
        refuse_network_filesystem(tmp_path)

    @pytest.mark.parametrize(
        ("magic", "name"), [(0x6969, "NFS"), (0xFF534D42, "CIFS"), (0x01021997, "9P"), (0x00C36400, "CephFS")]
    )
    def test_a_network_one_is_refused_with_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, name: str
    ) -> None:
        monkeypatch.setattr(filesystem, "filesystem_magic", lambda path: magic)
        with pytest.raises(StoreError, match=f"network file system \\({name}\\).*IMGPULL_HOME"):
            refuse_network_filesystem(tmp_path)

    @pytest.mark.parametrize(("kind", "refused"), [("fuse.sshfs", True), ("fuseblk", False), ("fuse.mergerfs", False)])
    def test_fuse_is_judged_by_what_is_mounted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, refused: bool
    ) -> None:
        monkeypatch.setattr(filesystem, "filesystem_magic", lambda path: 0x65735546)
        monkeypatch.setattr(filesystem, "_mounted_kind", lambda path: kind)
        if refused:
            with pytest.raises(StoreError, match=kind):
                refuse_network_filesystem(tmp_path)
        else:
            refuse_network_filesystem(tmp_path)

    def test_what_is_mounted_is_read_from_mountinfo(self) -> None:
        assert filesystem._mounted_kind("/proc") == "proc"

    def test_a_system_without_such_numbers_is_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.platform", "darwin")
        assert filesystem.filesystem_magic(tmp_path) is None
        refuse_network_filesystem(tmp_path)

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            filesystem.filesystem_magic(tmp_path / "missing")


class TestFault:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_no_space(self, code: int) -> None:
        error = fault(OSError(code, os.strerror(code)), "write", "/store/x")
        assert type(error) is StoreFullError
        assert str(error) == "no space left to write /store/x: free space or quota there, and try again"

    def test_others_say_what_where_and_why(self) -> None:
        with pytest.raises(StoreError) as caught, translated("write", "/store/x"):
            raise OSError(errno.EROFS, "Read-only file system")
        assert str(caught.value) == "cannot write /store/x: Read-only file system"
        assert caught.value.path == "/store/x"

    def test_a_store_error_passes_as_it_is(self) -> None:
        mine = StoreFullError("mine")
        with pytest.raises(StoreFullError) as caught, translated("write", "/store/x"):
            raise mine
        assert caught.value is mine


class TestSync:
    def test_full_reaches_the_kernel_and_reports_its_errors(self, tmp_path: Path) -> None:
        full = SYNCS["full"]
        with open(tmp_path / "file", "wb") as file:
            full.data(file.fileno())
            full.filesystem(file.fileno())
        full.directory(tmp_path)
        for sync in (full.data, full.filesystem):
            with pytest.raises(OSError) as caught:
                sync(9999)
            assert caught.value.errno == errno.EBADF

    def test_none_does_nothing(self) -> None:
        SYNCS["none"].data(9999)
        SYNCS["none"].filesystem(9999)
        SYNCS["none"].directory("/nowhere")
