"""Owners, modes, times, attributes and devices, with and without privileges."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.archives import LAYER, C, Chain, D, F, H, P, S, base256, header
from fakes.trees import as_nobody, place_of_nobody
from imgpull.errors import InvalidArchiveError, StoreError, UnsafeEntryError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sets owners")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")[:20]


def shown(chain: Chain, name: str) -> tuple[str, int, int, int]:
    node = chain.node(name)
    assert node is not None
    status = node.stat
    return (stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)


@needs_root
def test_owner_mode_and_time_of_every_kind(chain: Chain) -> None:
    chain.apply(
        D("d", 0o3751, uid=1, gid=2, mtime=10),
        F("d/f", b"x", mode=0o6711, uid=3, gid=4, mtime=11),
        S("d/s", "f", uid=5, gid=6, mtime=12),
        P("d/p", mode=0o602, uid=7, gid=8, mtime=13),
        C("d/c", 1, 3, mode=0o666, uid=9, gid=10, mtime=14),
        C("d/b", 8, 1, b"4", mode=0o060, uid=11, gid=12, mtime=15),
        F("d/max", uid=2**21 - 1, gid=2**21 - 1),
    )
    second = 10**9
    assert shown(chain, "d") == ("drwxr-s--t", 1, 2, 10 * second)
    assert shown(chain, "d/f") == ("-rws--s--x", 3, 4, 11 * second)
    assert shown(chain, "d/s") == ("lrwxrwxrwx", 5, 6, 12 * second)
    assert shown(chain, "d/p") == ("prw-----w-", 7, 8, 13 * second)
    assert shown(chain, "d/c") == ("crw-rw-rw-", 9, 10, 14 * second)
    assert shown(chain, "d/b") == ("b---rw----", 11, 12, 15 * second)
    node = chain.node("d/c")
    assert node and node.stat.st_rdev == os.makedev(1, 3)


@needs_root
def test_the_largest_owner(chain: Chain) -> None:
    largest = 2**32 - 2
    chain.apply(header(b"x", uid=base256(largest, 8), gid=base256(largest, 8)))
    assert shown(chain, "x")[1:3] == (largest, largest)


@needs_root
def test_a_setgid_directory_gives_its_group_to_nothing(chain: Chain) -> None:
    chain.apply(D("d", 0o2777, gid=50), F("d/f"), D("d/e"), S("d/s", "x"), P("d/p"))
    for name in ("d/f", "d/e", "d/s", "d/p"):
        assert shown(chain, name)[2] == 0
    assert shown(chain, "d/e")[0] == "drwxr-xr-x"


@needs_root
def test_a_root_with_another_group(tmp_path: Path) -> None:
    """A store below a setgid directory: what is made there gets that group, and must not keep it."""
    os.chown(tmp_path, 0, 50)
    os.chmod(tmp_path, 0o2700)
    chain = Chain(tmp_path)
    chain.apply(D("d"), F("d/f"), S("d/s", "x"))
    assert [shown(chain, name)[2] for name in ("d", "d/f", "d/s")] == [0, 0, 0]


@pytest.mark.parametrize("umask", [0o000, 0o077, pytest.param(0o777, marks=needs_root)])
def test_the_umask_says_nothing(chain: Chain, umask: int) -> None:
    before = os.umask(umask)
    try:
        chain.apply(D("d", 0o777), F("d/f", mode=0o666), P("d/p", mode=0o666))
    finally:
        os.umask(before)
    assert [shown(chain, name)[0] for name in ("d", "d/f", "d/p")] == ["drwxrwxrwx", "-rw-rw-rw-", "prw-rw-rw-"]


def test_modes_are_masked(chain: Chain) -> None:
    """H058."""
    chain.apply(header(b"x", mode=b"0140644\0"))
    assert shown(chain, "x")[0] == "-rw-r--r--"


def test_times_of_directories_are_set_last(chain: Chain) -> None:
    chain.apply(D("a", mtime=5), D("a/b", mtime=6), F("a/b/x"), F("a/y"), D("./", mtime=7), F("a/b/x", b"again"))
    assert [shown(chain, name)[3] for name in ("", "a", "a/b")] == [7 * 10**9, 5 * 10**9, 6 * 10**9]


def test_times_to_the_nanosecond_and_far_away(chain: Chain) -> None:
    chain.apply(
        header(b"late", mtime=base256(2**70, 12)),
        header(b"early", mtime=base256(-(2**70), 12)),
        header(b"before", mtime=base256(-5, 12)),
    )
    assert shown(chain, "before")[3] == -5 * 10**9
    assert shown(chain, "late")[3] > 2**32 * 10**9
    assert shown(chain, "early")[3] == -(2**31) * 10**9


@needs_root
def test_the_roots_own_entry(chain: Chain) -> None:
    """P7, and without one the lower layer's attributes."""
    chain.apply(D("./", 0o711, uid=4, gid=5, mtime=6))
    assert shown(chain, "") == ("drwx--x--x", 4, 5, 6 * 10**9)
    chain.apply(F("x"))
    assert shown(chain, "") == ("drwx--x--x", 4, 5, 6 * 10**9)


@needs_root
def test_implied_parents_are_those_of_the_layer_below(chain: Chain) -> None:
    """P13."""
    chain.apply(D("a", 0o1750, uid=1, gid=2, mtime=3, xattrs={"user.k": b"v", "trusted.k": b"t"}), D("a/b", 0o700))
    chain.apply(F("a/b/c/x"))
    assert shown(chain, "a") == ("drwxr-x--T", 1, 2, 3 * 10**9)
    assert chain.node("a").layer == 1  # type: ignore[union-attr]
    assert chain.xattrs("a") == {b"user.k": b"v", b"trusted.k": b"t"}
    assert shown(chain, "a/b") == ("drwx------", 0, 0, 0)
    assert shown(chain, "a/b/c") == ("drwxr-xr-x", 0, 0, 0)


@needs_root
def test_a_directory_entry_replaces_attributes(chain: Chain) -> None:
    chain.apply(D("a", 0o700, xattrs={"user.old": b"1"}), F("a/keep"))
    chain.apply(D("a", 0o711, uid=9, xattrs={"user.new": b"2"}))
    assert shown(chain, "a")[:2] == ("drwx--x--x", 9)
    assert chain.xattrs("a") == {b"user.new": b"2"}
    assert "a/keep" in chain.names()


# -- extended attributes ----------------------------------------------------------------------------------------------


@needs_root
def test_attributes_are_set(chain: Chain) -> None:
    applied = chain.apply(
        F("f", b"x", uid=5, mode=0o755, xattrs={"security.capability": CAPABILITY, "user.k": b"\0\n=v"}),
        D("d", xattrs={"user.d": b""}),
        S("s", "f", xattrs={"trusted.s": b"1"}),
    )
    assert chain.xattrs("f") == {b"security.capability": CAPABILITY, b"user.k": b"\0\n=v"}
    assert chain.xattrs("d") == {b"user.d": b""}
    assert chain.xattrs("s") == {b"trusted.s": b"1"}
    assert not applied.skipped


@pytest.mark.parametrize("key", ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.metacopy"])
@pytest.mark.parametrize("make", [F, D])
def test_instructions_to_overlayfs_are_refused(chain: Chain, make: Callable[..., bytes], key: str) -> None:
    """H041."""
    with pytest.raises(UnsafeEntryError, match="overlayfs") as caught:
        chain.apply(make("x", xattrs={key: b"y"}))
    assert (caught.value.layer, caught.value.entry) == (LAYER, "x")


@needs_root
def test_labels_of_the_build_host_are_left_out(chain: Chain) -> None:
    """P8."""
    applied = chain.apply(F("x", xattrs={"security.selinux": b"label", "security.ima": b"sig", "user.k": b"v"}))
    assert chain.xattrs("x").keys() - {b"security.selinux"} == {b"user.k"}
    assert sum(applied.skipped.values()) == 2


@needs_root
def test_user_attributes_that_a_link_can_not_have_are_counted(chain: Chain) -> None:
    applied = chain.apply(S("s", "x", xattrs={"user.k": b"v"}), P("p", xattrs={"user.k": b"v"}))
    assert applied.skipped == {"xattrs (not permitted)": 2}


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOTSUP, "xattrs (not supported)"), (errno.EPERM, "xattrs (not permitted)")]
)
def test_attributes_the_file_system_refuses_are_counted(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.setxattr", refuse)
    assert chain.apply(F("x", xattrs={"user.k": b"v"})).skipped[reason] == 1


def test_attributes_too_large_for_the_file_system(chain: Chain) -> None:
    """ext4 says ENOSPC; the disk is not full, so the layer does not fail."""
    entries = [F("x", xattrs={f"user.{number}": bytes(60_000) for number in range(4)}), F("y")]
    applied = chain.apply(*entries)
    assert chain.read("y") == b""
    assert len(chain.xattrs("x")) + applied.skipped["xattrs (not supported)"] == 4


@needs_root
def test_attributes_the_kernel_calls_invalid(chain: Chain) -> None:
    with pytest.raises(InvalidArchiveError, match="security.capability"):
        chain.apply(F("x", xattrs={"security.capability": b"short"}))


# -- without privileges ----------------------------------------------------------------------------------------------


def test_what_an_unprivileged_process_skips_is_counted(chain: Chain) -> None:
    applied = chain.apply(
        F("f", b"x", uid=12345, xattrs={"security.capability": CAPABILITY, "trusted.k": b"v", "user.k": b"v"}),
        S("s", "f", uid=12345),
        C("c", 1, 3),
        C("b", 8, 0, b"4"),
        P("p"),
        privileged=False,
    )
    assert applied.skipped["devices (not root)"] == 2
    assert applied.skipped["xattrs (not root)"] == 2
    assert applied.skipped["owners (not root)"] >= 2
    assert chain.names() == ["f", "p", "s"]
    assert shown(chain, "f")[1] == os.geteuid()


@needs_root
def test_a_device_that_may_not_be_made_is_counted(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """P14: root without CAP_MKNOD."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.mknod", refuse)
    assert chain.apply(C("c", 1, 3), F("after"), privileged=True).skipped == {"devices (not permitted)": 1}
    assert chain.names() == ["after"]


def test_an_owner_outside_the_user_namespace_is_an_error(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("os.fchown", refuse)
    with pytest.raises(StoreError, match="user namespace"):
        chain.apply(F("x", uid=70_000), privileged=True)


def test_closed_directories_and_files_as_nobody() -> None:
    """Modes 000 and 0555 keep nobody out while the layer is applied, and are told truly afterwards."""

    def act(place: Path) -> object:
        chain = Chain(place)
        chain.apply(
            D("closed", 0o000, mtime=5),
            F("closed/in", b"1", mode=0o000),
            D("ro", 0o555),
            F("ro/deep/x"),
            D("./", 0o111),
        )
        applied = chain.apply(F("closed/more", b"2"), H("linked", "closed/in"), F("ro/y"))
        return [
            chain.names(),
            {name: shown(chain, name)[0] for name in ("", "closed", "closed/in", "linked", "ro")},
            chain.read("linked").decode(),
            shown(chain, "closed")[3],
            sorted(oct(mode) for mode in applied.journal.modes.values()),
        ]

    with place_of_nobody() as place:
        names, modes, content, mtime, lifted = as_nobody(lambda: act(place))  # type: ignore[misc]
    assert names == ["closed", "closed/in", "closed/more", "linked", "ro", "ro/deep", "ro/deep/x", "ro/y"]
    assert modes == {"": "d--x--x--x", "closed": "d---------", "closed/in": "----------"} | {
        "linked": "----------",
        "ro": "dr-xr-xr-x",
    }
    assert content == "1"
    assert mtime == 5 * 10**9
    assert lifted == ["0o0", "0o0", "0o0", "0o111"]


def test_replaced_names_lose_their_lifted_modes(chain: Chain) -> None:
    applied = chain.apply(
        F("a", mode=0), F("a", mode=0o644), D("d", 0), F("d/x", mode=0), F("d", b""), privileged=False
    )
    assert applied.journal.modes == {}
