"""The tar reader against vectors and against the standard library's and GNU's writers."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.archives import (
    END,
    LAYER,
    LIMITS,
    D,
    F,
    H,
    S,
    archive,
    base256,
    entry,
    header,
    long_name,
    octal,
    pax,
    pax_record,
    pieces,
    raw_pax,
    read,
)
from imgpull.errors import InvalidArchiveError, LimitExceededError, UnpackError, UnsafeEntryError
from imgpull.unpack.entry import MAX_ID
from imgpull.unpack.tar import TarReader


def names(data: bytes) -> list[str]:
    return [os.fsdecode(found.name) for found, _ in read(data)]


# -- what is read ------------------------------------------------------------------------------------------------


def test_every_field() -> None:
    data = entry("a/b", b"3", mode=0o104755, uid=5, gid=6, mtime=7, devmajor=octal(8, 8), devminor=octal(9, 8))
    ((found, payload),) = read(data + END)
    assert found._replace(xattrs={}) == (b"a/b", "char", 0o4755, 5, 6, 7 * 10**9, 0, b"", 8, 9, {})
    assert payload == b""


@pytest.mark.parametrize(
    ("flag", "name", "kind"),
    [
        (b"0", "f", "file"),
        (b"\0", "f", "file"),
        (b"7", "f", "file"),
        (b"0", "f/", "file"),
        (b"\0", "d/", "directory"),
        (b"1", "h", "hardlink"),
        (b"2", "s", "symlink"),
        (b"3", "c", "char"),
        (b"4", "b", "block"),
        (b"5", "d", "directory"),
        (b"6", "p", "fifo"),
    ],
)
def test_kinds(flag: bytes, name: str, kind: str) -> None:
    assert read(entry(name, flag) + END)[0][0].kind == kind


@pytest.mark.parametrize("flag", [b"V", b"M", b"N", b"D", b"A", b"8", b"X", b"z", b"\xff", b"S"])
def test_other_types_are_refused(flag: bytes) -> None:
    with pytest.raises(InvalidArchiveError, match=r"unknown type|sparse") as caught:
        read(F("before") + entry("odd", flag) + END)
    assert (caught.value.layer, caught.value.entry) == (LAYER, "odd")


@pytest.mark.parametrize("size", [1, 511, 512, 513, 10_240, 1 << 20])
def test_blocks_of_any_length_give_the_same(size: int) -> None:
    data = archive(
        F("a", b"1" * 700), D("d"), F("d/empty"), F("n" * 150, b"2" * 512), pax({"path": "long"}) + F("x", b"3")
    )
    found = read(data, size=size)
    assert [(bytes(item.name), payload) for item, payload in found] == [
        (b"a", b"1" * 700),
        (b"d", b""),
        (b"d/empty", b""),
        (b"n" * 150, b"2" * 512),
        (b"long", b"3"),
    ]


def test_data_that_nobody_asks_for_is_skipped() -> None:
    data = archive(F("a", b"1" * 5000), F("b", b"2" * 3), F("c", b"3" * 512))
    reader = TarReader(pieces(data, 100), LIMITS, LAYER)
    assert [item.name for item in reader] == [b"a", b"b", b"c"]
    reader = TarReader(pieces(data, 100), LIMITS, LAYER)
    next(reader)
    assert bytes(next(iter(reader.payload()))) == b"1" * 88
    assert next(reader).name == b"b"


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10_240)])
def test_ends(end: bytes) -> None:
    assert names(F("a", b"x") + end) == ["a"]
    assert names(end) == []


@pytest.mark.parametrize("behind", [F("hidden", b"x"), b"junk", b"\xff" * 5000])
def test_what_is_behind_the_end_is_read_and_never_parsed(behind: bytes) -> None:
    data = archive(F("a")) + behind
    taken = 0

    def counted() -> object:
        nonlocal taken
        for piece in pieces(data, 700):
            taken += len(piece)
            yield piece

    reader = TarReader(counted(), LIMITS, LAYER)  # type: ignore[arg-type]
    assert [item.name for item in reader] == [b"a"]
    reader.drain()
    assert taken == len(data)
    assert list(reader) == []


@pytest.mark.parametrize(
    ("extensions", "name", "target"),
    [
        (b"", b"short", b"target"),
        (long_name(b"gnu"), b"gnu", b"target"),
        (long_name(b"gnu", b"K"), b"short", b"gnu"),
        (long_name(b"gnu") + long_name(b"link", b"K"), b"gnu", b"link"),
        (pax({"path": "pax"}), b"pax", b"target"),
        (pax({"path": "pax"}) + long_name(b"gnu"), b"pax", b"target"),
        (long_name(b"gnu") + pax({"path": "pax", "linkpath": "p"}), b"pax", b"p"),
        (pax({"path": "", "linkpath": ""}), b"short", b"target"),
        (long_name(b"gnu") + pax({"path": ""}), b"gnu", b"target"),
        (pax({"path": "global", "linkpath": "global"}, b"g"), b"short", b"target"),
        (pax({"path": b"\xff\xfe", "hdrcharset": "BINARY"}), b"\xff\xfe", b"target"),
    ],
)
def test_precedence_of_names(extensions: bytes, name: bytes, target: bytes) -> None:
    data = archive(extensions + S("short", "target") + S("next", "plain"))
    (first, _), (second, _) = read(data)
    assert (first.name, first.linkname) == (name, target)
    assert (second.name, second.linkname) == (b"next", b"plain")


def test_prefix_and_name() -> None:
    assert names(header(b"name", prefix=b"some/dir") + END) == ["some/dir/name"]


def test_pax_numbers() -> None:
    big = MAX_ID
    data = pax({"uid": str(big), "gid": "7", "mtime": "1.5", "size": "3", "uname": "root"}) + F("x", b"abc", uid=1)
    ((found, payload),) = read(data + END)
    assert (found.uid, found.gid, found.mtime_ns, payload) == (big, 7, 1_500_000_000, b"abc")


def test_a_global_header_says_nothing_about_sizes() -> None:
    assert read(pax({"size": "1000000"}, b"g") + F("x", b"abc") + END)[0][1] == b"abc"
    assert names(pax({"comment": "git"}, b"g") + END) == []


def test_a_hard_links_size_is_no_data() -> None:
    assert names(entry("h", b"1", link="x", size=octal(5000, 12)) + F("after") + END) == ["h", "after"]


def test_times_are_clamped() -> None:
    late = header(b"late", mtime=base256(2**70, 12))
    early = header(b"early", mtime=base256(-(2**70), 12))
    found = read(late + early + END)
    assert [item.mtime_ns for item, _ in found] == [2**63 - 1, -(2**31) * 10**9]


# -- what is refused ---------------------------------------------------------------------------------------------

BAD_CHECKSUM = header(b"bad", checksum=b"000000\0 ")
INVALID = {
    "bad checksum first": BAD_CHECKSUM + END,
    "bad checksum later": F("a", b"x") + BAD_CHECKSUM + F("b") + END,
    "garbage block": F("a") + b"\xa5" * 512 + END,
    "not a tar": b"this is no tar at all " * 100,
    "gzip inside": gzip.compress(bytes(20_000))[:20] + b"x" * 1000,
    "header cut": F("a") + F("b")[:300],
    "one byte": b"x",
    "data cut": F("a", b"x" * 1000)[:-600],
    "padding cut": F("a", b"x" * 1000)[:-1],
    "one zero block and more": F("a") + bytes(512) + F("b") + END,
    "zero block and garbage": F("a") + bytes(512) + b"x",
    "negative size": header(b"neg", size=base256(-512, 12)) + END,
    "size no number": header(b"size", size=b"12x45\0") + END,
    "size -1": header(b"size", size=b"-1\0") + END,
    "mode no number": header(b"mode", mode=b"rwxr-xr\0") + END,
    "mtime no number": header(b"m", mtime=b"yesterday\0") + END,
    "device no number": header(b"dev", b"3", devmajor=b"x\0") + END,
    "size on a directory": entry("d", b"5", size=octal(512, 12)) + bytes(512) + END,
    "size on a symlink": entry("s", b"2", link="x", size=octal(512, 12)) + bytes(512) + END,
    "size on a FIFO": entry("p", b"6", size=octal(1, 12)) + END,
    "size on a device": entry("c", b"3", size=octal(1, 12)) + END,
    "two sizes": pax({"size": "4"}) + F("x", b"abc") + END,
    "TARmageddon": pax({"size": "1024"}) + header(b"x", size=octal(0, 12)) + F("hidden") + END,
    "size 0 over data": pax({"size": "0"}) + F("x", b"abc") + END,
    "negative pax size": pax({"size": "-1"}) + F("x") + END,
    "two pax sizes": raw_pax(pax_record("size", "1") + pax_record("size", "3")) + F("x", b"abc") + END,
    "pax size no number": pax({"size": "1e3"}) + F("x") + END,
    "pax uid no number": pax({"uid": "root"}) + F("x") + END,
    "pax time NaN": pax({"mtime": "nan"}) + F("x") + END,
    "pax record length 0": raw_pax(b"0 path=x\n") + F("x") + END,
    "pax record past the end": raw_pax(b"99 path=x\n") + F("x") + END,
    "NUL in a path": raw_pax(b"12 path=a\0b\n") + F("x") + END,
    "x without entry": F("a") + pax({"path": "b"}) + END,
    "x without entry or end": F("a") + pax({"path": "b"}),
    "two x": pax({"path": "a"}) + pax({"path": "b"}) + F("x") + END,
    "two L": long_name(b"a") + long_name(b"b") + F("x") + END,
    "sparse 1.0": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}) + F("x") + END,
    "xattr no namespace": pax({"SCHILY.xattr.plain": "1"}) + F("x") + END,
}


@pytest.mark.parametrize("size", [512, 333, 1 << 20])
@pytest.mark.parametrize("name", INVALID)
def test_is_refused(name: str, size: int) -> None:
    with pytest.raises(InvalidArchiveError) as caught:
        read(INVALID[name], size=size)
    assert caught.value.layer == LAYER
    assert "\n" not in str(caught.value)


UNSAFE_IDS = {
    "uid -1": header(b"x", uid=base256(-1, 8)),
    "uid 2**32-1": header(b"x", uid=base256(2**32 - 1, 8)),
    "gid 2**55": header(b"x", gid=base256(2**55, 8)),
    "pax uid -1": pax({"uid": "-1"}) + F("x"),
    "pax gid 2**32-1": pax({"gid": str(2**32 - 1)}) + F("x"),
    "pax uid 2**63": pax({"uid": str(2**63)}) + F("x"),
}


@pytest.mark.parametrize("name", UNSAFE_IDS)
def test_owners_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UnsafeEntryError, match="owner"):
        read(UNSAFE_IDS[name] + END)


def test_an_owner_overridden_by_a_good_one_is_taken() -> None:
    ((found, _),) = read(pax({"uid": "9"}) + header(b"x", uid=base256(-1, 8)) + END)
    assert found.uid == 9


LIMITED = {
    "size 2**62": (header(b"x", size=base256(2**62, 12)) + END, "layer_bytes"),
    "pax size 2**62": (pax({"size": str(2**62)}) + header(b"x") + END, "layer_bytes"),
    "long x": (raw_pax(pax_record("comment", b"c" * 6000)) + F("x") + END, "pax_bytes"),
    "long g": (raw_pax(b"?" * 6000, b"g") + F("x") + END, "pax_bytes"),
    "many g": (raw_pax(b"?" * 600, b"g") * 10 + F("x") + END, "pax_bytes"),
    "long L": (long_name(b"n" * 6000) + F("x") + END, "pax_bytes"),
    "x and L and K": (
        pax({"c": "c" * 2000}) + long_name(b"n" * 2000) + long_name(b"n" * 2000, b"K") + F("x"),
        "pax_bytes",
    ),
    "entries": (F("x") * 21 + END, "layer_entries"),
    "headers": (pax({"c": ""}, b"g") * 11 + F("x") * 10 + END, "layer_entries"),
    "xattrs": (entry("x", xattrs={f"user.{i}": b"" for i in range(5)}) + END, "xattrs_per_entry"),
    "xattr": (entry("x", xattrs={"user.a": b"1" * 101}) + END, "xattr_bytes"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits(name: str) -> None:
    data, limit = LIMITED[name]
    limits = dataclasses.replace(
        LIMITS, layer_bytes=1 << 20, pax_bytes=5000, layer_entries=20, xattrs_per_entry=4, xattr_bytes=100
    )
    with pytest.raises(LimitExceededError) as caught:
        read(data, limits)
    assert caught.value.limit == limit


def test_extended_headers_are_counted_for_each_entry_anew() -> None:
    limits = dataclasses.replace(LIMITS, pax_bytes=1200)
    data = archive(*[pax({"comment": "c" * 1000}) + F(f"f{i}") for i in range(5)])
    assert len(read(data, limits)) == 5


def test_sizes_above_eight_gib() -> None:
    size = 9 << 30
    low = size & 0o77777777777
    for field in (octal(0, 12), b"77777777777\0", octal(low, 12), base256(size, 12)):
        reader = TarReader([pax({"size": str(size)}) + header(b"big", size=field)], LIMITS, LAYER)
        assert next(reader).size_bytes == size
    with pytest.raises(InvalidArchiveError, match="size of 5 bytes in its header"):
        read(pax({"size": str(size)}) + header(b"big", size=octal(5, 12)))


def test_a_hostile_name_can_not_write_to_the_terminal() -> None:
    with pytest.raises(InvalidArchiveError) as caught:
        read(entry("\x1b[2J\nroot", b"V") + END)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.entry == "\x1b[2J\nroot"


# -- against others ----------------------------------------------------------------------------------------------


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    parts = draw(st.lists(st.text("aé☃ \\-.x", min_size=1, max_size=60), min_size=1, max_size=5))
    info = tarfile.TarInfo("/".join(part for part in parts if part.strip(".")) or "plain")
    info.type = draw(
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    )
    info.mode = draw(st.integers(0, 0o7777))
    info.uid = draw(st.sampled_from([0, 1000, 2**21, 2**31]))
    info.gid = draw(st.sampled_from([0, 50, 2**21]))
    info.mtime = draw(st.sampled_from([0, 1, 1_700_000_000, 2**33]))
    data = b""
    if info.type == tarfile.REGTYPE:
        data = draw(st.binary(max_size=1500))
        info.size = len(data)
    if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(st.text("abc/.é", min_size=1, max_size=150))
    return info, data


@given(
    st.lists(members(), max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_standard_library(found: list[tuple[tarfile.TarInfo, bytes]], form: int, seed: int) -> None:
    buffer = io.BytesIO()
    written = []
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in found:
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # ustar can't say it
                continue
            written.append((info, data))
    ours = read(buffer.getvalue(), size=random.Random(seed))
    kinds = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}
    kinds |= {"hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
    assert len(ours) == len(written)
    for (mine, payload), (info, data) in zip(ours, written, strict=True):
        assert os.fsdecode(mine.name).rstrip("/") == info.name.rstrip("/")
        assert (kinds[mine.kind], mine.mode, mine.uid, mine.gid) == (info.type, info.mode, info.uid, info.gid)
        assert mine.mtime_ns == info.mtime * 10**9
        assert (os.fsdecode(mine.linkname), payload) == (info.linkname, data)


@given(st.binary(max_size=3000), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_entries_or_one_typed_error(data: bytes, seed: int) -> None:
    start = archive(F("a", b"x" * 600), pax({"path": "b"}) + F("y"), long_name(b"z" * 200) + D("z"))
    chooser = random.Random(seed)
    mutated = bytearray(start + data)
    for _ in range(chooser.randrange(4)):
        mutated[chooser.randrange(len(mutated))] = chooser.randrange(256)
    try:
        read(bytes(mutated), size=chooser)
    except UnpackError as error:
        assert error.layer == LAYER


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_reads_what_gnu_tar_writes(form: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    deep = tree / ("d" * 60) / ("e" * 30 if form != "v7" else "e")
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"x" * 3000)
    (tree / "link").symlink_to("target")
    os.link(deep / "file", tree / "hard")
    archive_path = tmp_path / "out.tar"
    subprocess.run(["tar", f"--format={form}", "-C", tree, "-cf", archive_path, "."], check=True)
    found = {
        os.fsdecode(item.name).removeprefix("./").rstrip("/"): (item, data)
        for item, data in read(archive_path.read_bytes())
    }
    with tarfile.open(archive_path) as tar:
        assert {member.name.removeprefix("./").removeprefix(".") for member in tar} == set(found)
    kinds = sorted(item.kind for item, _ in found.values())
    assert kinds == ["directory", "directory", "directory", "file", "hardlink", "symlink"]
    assert next(data for item, data in found.values() if item.kind == "file") == b"x" * 3000


def test_thirty_two_thousand_entries() -> None:
    one = F("usr/lib/x", b"x" * 600)
    reader = TarReader([one * 16_000] * 2 + [END], LIMITS, LAYER)
    assert sum(item.size_bytes for item in reader) == 32_000 * 600
    assert reader.headers == 32_000


def test_h_keeps_its_target() -> None:
    ((found, _),) = read(H("h", "/abs/x") + END)
    assert (found.kind, found.linkname, found.size_bytes) == ("hardlink", b"/abs/x", 0)
