"""Whole trees, against what they were made from and what GNU tar makes of them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from fakes.archives import LAYER, LIMITS, C, Chain, D, F, H, P, S, archive, entry, pax, pieces
from fakes.trees import read_tree
from imgpull.store.snapshots.merged import MergedTree
from imgpull.unpack.applier import Applier
from imgpull.unpack.assumption import KnownLinks
from imgpull.unpack.tar import TarReader


def ordinary_tree(root: Path) -> None:
    for name in ("bin", "etc/deep/er", "usr/share/ünïcode", "var/" + "long" * 40):
        (root / name).mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"#!" * 9000)
    os.chmod(root / "bin/tool", 0o4755)
    os.link(root / "bin/tool", root / "bin/same")
    (root / "etc/link").symlink_to("/etc/target")
    (root / "etc/dangling").symlink_to("../../nowhere")
    os.mkfifo(root / "etc/fifo", 0o640)
    os.chmod(root / "etc/fifo", 0o640)
    (root / "etc/deep/er/empty").touch()
    (root / "usr/share/ünïcode/ñ").write_text("x")
    os.chmod(root / "etc/deep", 0o700)
    for number, (where, directories, files) in enumerate(os.walk(root, topdown=False)):
        for name in [*directories, *files]:
            os.utime(os.path.join(where, name), (1_600_000_000 + number, 1_600_000_000 + number), follow_symlinks=False)
    os.utime(root, (1_500_000_000, 1_500_000_000))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are compared")
@pytest.mark.parametrize("writer", ["ustar", "pax", "gnu", "tar --format=gnu", "tar --format=posix"])
def test_an_ordinary_tree_comes_out_as_it_went_in(chain: Chain, tmp_path: Path, writer: str) -> None:
    source = tmp_path / "store" / "source"
    source.mkdir()
    ordinary_tree(source)
    expected = read_tree(source)
    if writer.startswith("tar"):
        if shutil.which("tar") is None:
            pytest.skip("needs GNU tar")
        data = subprocess.run([*writer.split(), "-C", source, "-cf", "-", "."], check=True, capture_output=True).stdout
    else:
        buffer = io.BytesIO()
        form = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}[writer]
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            tar.add(source, ".", filter=lambda info: None if writer == "ustar" and len(info.name) > 100 else info)
        data = buffer.getvalue()
    if writer == "ustar":
        expected = {name: found for name, found in expected.items() if len(name) < 100}
    chain.apply_tar(data)
    assert read_tree(Path(chain.layers[0].root)) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are compared")
def test_equals_what_gnu_tar_unpacks(chain: Chain, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("needs GNU tar")
    data = archive(
        D("./", 0o711, mtime=11),
        D("a", 0o2755, uid=1, gid=2, mtime=12),
        F("a/f", b"1", mode=0o6755, uid=3, gid=4, mtime=13),
        S("a/s", "f", uid=5, gid=6, mtime=14),
        H("a/h", "a/f"),
        P("a/p", mode=0o620, uid=7, gid=8, mtime=15),
        C("a/c", 1, 3, mode=0o666, mtime=16),
        C("a/b", 7, 0, b"4", mode=0o660, gid=6, mtime=17),
        F("n" * 90 + "/" + "m" * 90, b"2", mtime=18),
    )
    theirs = tmp_path / "store" / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "-C", theirs, "-xpf", "-", "--numeric-owner"], input=data, check=True)
    chain.apply_tar(data)
    mine, other = (read_tree(where) for where in (Path(chain.layers[0].root), theirs))
    for tree in (mine, other):
        tree["n" * 90] = ()  # an implied parent: ours is of 1970, tar's of now
    assert mine == other


def test_thirty_two_thousand_entries(tmp_path: Path) -> None:
    """As many as the golang image has."""
    directories = [D(f"d{number}") for number in range(320)]
    files = [F(f"d{number % 320}/f{number}", b"x") for number in range(32_000)]
    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with (
            MergedTree([]) as lower,
            Applier(root_fd, KnownLinks(lower), privileged=os.geteuid() == 0, limits=LIMITS, layer=LAYER) as applier,
        ):
            applier.make(TarReader(pieces(archive(*directories, *files), 1 << 18), LIMITS, LAYER))
            applied = applier.settle(lower)
    finally:
        os.close(root_fd)
    assert (applied.entries, applied.inodes, applied.size_bytes) == (32_320, 32_321, 32_000)


def test_entries_below_wrong_pax_names() -> None:
    """An entry() helper that would not write what it says would make the vectors above worthless."""
    assert entry("n" * 200)[:512] == pax({"path": "n" * 200})[:512]
