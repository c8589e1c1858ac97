"""What one process was told, read by another: used only while it can be compared, and never an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgpull.locking import clock_name, now_ns
from imgpull.oci import Digest
from imgpull.store import answers
from imgpull.store.answers import Answer, Answers

DIGEST = Digest("sha256:" + "a" * 64)
SAID = Answer(now_ns(), DIGEST, "application/vnd.oci.image.index.v1+json", 7)


@pytest.mark.parametrize("said", [SAID, Answer(3, None)])
def test_what_was_written_is_read(tmp_path: Path, said: Answer) -> None:
    Answers(tmp_path).write("resolve://a", said)
    assert Answers(tmp_path).read("resolve://a") == said
    assert Answers(tmp_path).read("resolve://b") is None


def test_keys_that_share_a_name_take_it_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_NAME_DIGITS", 0)
    monkeypatch.setattr(Answers, "_path", lambda self, key: f"{self._directory}/00")
    said = Answers(tmp_path)
    said.write("a", SAID)
    said.write("b", Answer(1, None))
    assert (said.read("a"), said.read("b")) == (None, Answer(1, None))
    assert os.listdir(tmp_path / "resolved") == ["00"]


def test_another_boot_or_time_namespace_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(tmp_path).write("a", SAID)
    for name in ("another boot", None):
        monkeypatch.setattr(answers, "clock_name", lambda name=name: name)
        assert Answers(tmp_path).read("a") is None
    Answers(tmp_path).write("b", SAID)
    assert len(list((tmp_path / "resolved").iterdir())) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff" * 9000,
        b'{"key": "a", "clock": "CLOCK", "sent_ns": "x", "digest": null}',
    ]
    + [b'{"key": "a", "clock": "CLOCK", "sent_ns": 1, "digest": "sha256:short", "media_type": null, "size_bytes": 1}'],
)
def test_damage_is_no_answer(tmp_path: Path, raw: bytes) -> None:
    said = Answers(tmp_path)
    said.write("a", SAID)
    (path,) = (tmp_path / "resolved").iterdir()
    path.write_bytes(raw.replace(b"CLOCK", (clock_name() or "").encode()))
    assert said.read("a") is None


def test_what_can_t_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "resolved").write_text("a file")
    Answers(tmp_path).write("a", SAID)
    assert Answers(tmp_path).read("a") is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    said = Answers(tmp_path)
    said.write("a", SAID)
    (path,) = (tmp_path / "resolved").iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert said.read("a") is None
