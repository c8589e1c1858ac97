"""What layers mean where tools disagree: beside umoci, entry by entry. Each difference is in docs/policies.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import imgpull
from fakes.archives import C, D, F, H, P, S, archive
from fakes.images import OCI_LAYER, Image, Layer, build, compress
from fakes.layouts import write_layout
from fakes.registry import FakeRegistry
from fakes.skopeo import umoci_tree
from fakes.trees import read_tree

pytestmark = [
    pytest.mark.realpeer("umoci"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gets owners, devices and capabilities"),
]

T = 1_500_000_000
MTIME = 5
Layers = Sequence[Sequence[bytes]]

SAME: Mapping[str, Layers] = {
    "P2 an absolute link is kept": [[S("l", "/etc/x", mtime=T)]],
    "P3 a hard link by an absolute name": [[F("y", b"1", mtime=T), H("x", "/y")]],
    "P4 through a link of the layer": [[D("d", mtime=T), S("l", "/d", mtime=T), F("l/x", b"1", mtime=T)]],
    "P5 a whiteout after the file": [[F("x", b"1", mtime=T), F(".wh.x")]],
    "P5 a whiteout before the file": [[F("x", b"0", mtime=T)], [F(".wh.x"), F("x", b"1", mtime=T)]],
    "P5 an opaque marker comes last": [
        [D("d", mtime=T), F("d/x", mtime=T)],
        [D("d", mtime=T), F("d/y", mtime=T), F("d/.wh..wh..opq")],
    ],
    "P6 a marker of aufs": [[F(".wh..wh.aufs"), F("a", mtime=T)]],
    "P7 an entry for the root": [[D("./", mode=0o700, uid=5, mtime=T)], [F("x", b"1", mtime=T)]],
    "P7 no entry for the root": [[F("x", b"1", mtime=T)]],
    "P8 selinux": [[F("x", b"1", mtime=T, xattrs={"security.selinux": "a_t"})]],
    "P13 a parent implied above its entry": [
        [D("d", mode=0o700, uid=7, mtime=T), F("d/x", mtime=T)],
        [F("d/y", b"1", mtime=T)],
    ],
    "P14 devices and pipes": [[C("c", 1, 3, mtime=T), C("b", 7, 3, typeflag=b"4", mtime=T), P("p", mtime=T)]],
    "P16 through a link below": [[D("d", mtime=T), S("l", "d", mtime=T)], [F("l/x", b"1", mtime=T)]],
    "P16 through a link out of the root": [[S("l", "../../..", mtime=T)], [F("l/x", b"1", mtime=T)]],
    "P16 through two links": [
        [D("d", mtime=T), S("a", "b", mtime=T), S("b", "d", mtime=T)],
        [F("a/x", b"1", mtime=T)],
    ],
    "P16 a whiteout through a link": [
        [D("d", mtime=T), F("d/x", mtime=T), S("l", "d", mtime=T)],
        [F("l/.wh.x")],
    ],
    "P18 a directory over a link below": [
        [D("d", mtime=T), S("s", "d", mtime=T)],
        [D("s", mtime=T), F("s/x", b"1", mtime=T)],
    ],
    "P18 a directory over a link of the layer": [
        [D("d", mtime=T), S("s", "d", mtime=T), D("s", mtime=T), F("s/x", b"1", mtime=T)]
    ],
    "an absolute name": [[F("/x", b"1", mtime=T)]],
    "an opaque marker without its directory's entry": [
        [D("d", mode=0o700, mtime=T), F("d/x", mtime=T)],
        [F("d/.wh..wh..opq"), F("d/y", mtime=T)],
    ],
    "an opaque root": [[D("./", mtime=T), F("a", mtime=T)], [F(".wh..wh..opq"), F("b", mtime=T)]],
    "a whiteout of a link": [[D("d", mtime=T), F("d/x", mtime=T), S("l", "d", mtime=T)], [F(".wh.l")]],
    "a whiteout below leaves its directory's time": [[D("d", mtime=T), F("d/x", mtime=T)], [F("d/.wh.x")]],
    "attributes of a hard link's entry": [[F("y", b"1", mtime=T), H("x", "y", mode=0o600, uid=7, mtime=T + 9)]],
    "a hard link through a link": [[D("d", mtime=T), F("d/y", b"1", mtime=T), S("s", "d", mtime=T), H("x", "s/y")]],
    "a hard link into a lower layer": [[F("y", b"1", mtime=T)], [H("x", "y")]],
    "a linked file is replaced in its layer": [[F("a", b"1", mtime=T), H("b", "a"), F("a", b"2", mtime=T)]],
    "a linked file is replaced above": [[F("a", b"1", mtime=T), H("b", "a")], [F("a", b"2", mtime=T)]],
    "a linked file is replaced after one more link": [[F("y", b"1", mtime=T)], [H("x", "y"), F("y", b"2", mtime=T)]],
    "a file twice": [[F("x", b"1", mtime=T), F("x", b"2", mtime=T + 1)]],
    "a directory twice": [[D("d", mtime=T, mode=0o700), F("d/x", mtime=T), D("d", mtime=T + 1)]],
    "a link over a directory": [[D("d", mtime=T), F("d/x", mtime=T)], [S("d", "/e", mtime=T)]],
    "a file over a directory": [[D("d", mtime=T), F("d/x", mtime=T)], [F("d", b"1", mtime=T)]],
    "a directory without permissions": [[D("d", mode=0, mtime=T), F("d/x", mtime=T)]],
    "all the bits": [[D("d", 0o7777, uid=9, gid=9, mtime=T), F("d/x", mode=0o6755, uid=9, gid=8, mtime=T)]],
}
"""By its policy where it has one: the same tree."""

TIMES: Mapping[str, tuple[Layers, set[str]]] = {
    "P13 nobody has the parent": ([[F("a/b/x", b"1", mtime=T)]], {"", "a", "a/b"}),
    "P13 the parent was hidden": (
        [[D("d", mode=0o700, mtime=T), F("d/x", mtime=T)], [F(".wh.d"), F("d/y", b"1", mtime=T)]],
        {"", "d"},
    ),
    "P13 a link leads to where nothing is": ([[S("l", "gone", mtime=T)], [F("l/x", b"1", mtime=T)]], {"", "gone"}),
}
"""The same tree but for the times of these directories, which umoci sets to now."""

WE_REFUSE: Mapping[str, Layers] = {
    "P1 two dots": [[F("../x", b"1", mtime=T)]],
    "P1 two dots that stay inside": [[D("a", mtime=T), F("a/../x", b"1", mtime=T)]],
    "P6 below a whiteout": [[F(".wh.d/x", b"q"), F("a", mtime=T)]],
    "P9 a character device 0:0": [[C("x", 0, 0, mtime=T)]],
    "P9 user.overlay": [[F("x", b"1", mtime=T, xattrs={"user.overlay.origin": "y"})]],
    "P9 trusted.overlay": [[D("x", mtime=T, xattrs={"trusted.overlay.opaque": "y"})]],
    "an attribute without a namespace": [[F("x", b"1", mtime=T, xattrs={"foo": "bad"})]],
}

THEY_REFUSE: Mapping[str, tuple[Layers, list[str]]] = {
    "a hard link to what the layer hides": ([[F("y", b"1", mtime=T)], [F(".wh.y"), H("x", "y")]], ["", "x"]),
    "a file where a directory is needed": ([[F("a", b"1", mtime=T), F("a/b", b"2", mtime=T)]], ["", "a", "a/b"]),
    "a file below where a directory is needed": (
        [[F("a", b"1", mtime=T)], [F("a/b", b"2", mtime=T)]],
        ["", "a", "a/b"],
    ),
    "an attribute the kernel does not put on links": ([[S("x", "y", mtime=T, xattrs={"user.a": "b"})]], ["", "x"]),
}

BOTH_REFUSE: Mapping[str, Layers] = {
    "a whiteout of nothing": [[F(".wh."), F("a", mtime=T)]],
    "a hard link to nothing": [[H("x", "y")]],
    "a hard link to a directory": [[D("y"), H("x", "y")]],
    "a link to nowhere": [[S("x", "", mtime=T)]],
}


def image_of(layers: Layers) -> Image:
    tars = [archive(*entries) for entries in layers]
    return build([Layer(compress(tar, "gzip"), tar, f"{OCI_LAYER}+gzip") for tar in tars])


def ours(layers: Layers, place: Path) -> dict[str, tuple[object, ...]]:
    with (
        FakeRegistry() as registry,
        imgpull.Store(place / "store", durability="none") as store,
        imgpull.Puller(store) as puller,
    ):
        registry.add(image_of(layers))
        store.unpack(puller.pull(f"{registry.address}/library/fake"), place / "unpacked")
    return read_tree(place / "unpacked")


def theirs(layers: Layers, place: Path) -> dict[str, tuple[object, ...]]:
    return read_tree(umoci_tree(write_layout(place / "layout", {"it": image_of(layers)}), "it", place / "bundle"))


@pytest.mark.parametrize("case", SAME)
def test_the_same_tree(tmp_path: Path, case: str) -> None:
    assert ours(SAME[case], tmp_path) == theirs(SAME[case], tmp_path)


@pytest.mark.parametrize("case", TIMES)
def test_all_but_the_times_of_implied_directories(tmp_path: Path, case: str) -> None:
    layers, names = TIMES[case]
    mine, other = ours(layers, tmp_path), theirs(layers, tmp_path)
    assert mine.keys() == other.keys()
    differing = {(name, field) for name in mine for field in range(7) if mine[name][field] != other[name][field]}
    assert differing == {(name, MTIME) for name in names}
    assert {mine[name][MTIME] for name in names} == {0}


def test_what_is_left_out(tmp_path: Path) -> None:
    layers = [
        [D(".wh..wh.plnk"), F(".wh..wh.plnk/1.2", b"q"), F("a", mtime=T, xattrs={"security.ima": "\x04a"})],
    ]
    mine, other = ours(layers, tmp_path), theirs(layers, tmp_path)
    assert other.keys() - mine.keys() == {".wh..wh.plnk", ".wh..wh.plnk/1.2"}
    assert mine["a"][4] == {}
    assert other["a"][4] == {"security.ima": b"\x04a"}


@pytest.mark.parametrize("case", WE_REFUSE)
def test_only_we_refuse(tmp_path: Path, case: str) -> None:
    assert "" in theirs(WE_REFUSE[case], tmp_path)
    with pytest.raises(imgpull.UnpackError):
        ours(WE_REFUSE[case], tmp_path)


@pytest.mark.parametrize("case", THEY_REFUSE)
def test_only_they_refuse(tmp_path: Path, case: str) -> None:
    layers, names = THEY_REFUSE[case]
    assert list(ours(layers, tmp_path)) == names
    with pytest.raises(AssertionError, match="umoci unpack"):
        theirs(layers, tmp_path)


@pytest.mark.parametrize("case", BOTH_REFUSE)
def test_both_refuse(tmp_path: Path, case: str) -> None:
    with pytest.raises(imgpull.UnpackError):
        ours(BOTH_REFUSE[case], tmp_path)
    with pytest.raises(AssertionError, match="umoci unpack"):
        theirs(BOTH_REFUSE[case], tmp_path)
