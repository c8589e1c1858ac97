"""The journal of a layer: what it hides, and that it survives JSON byte for byte."""

from __future__ import annotations

import json

import pytest

from imgpull.errors import StoreCorruptError
from imgpull.store.snapshots.layer import Journal, LayerTree, path_to_text, text_to_path


def test_a_journal_survives_json_whatever_the_bytes() -> None:
    journal = Journal()
    journal.whiteout((), b"etc")
    journal.whiteout((b"usr", b"caf\xe9"), b"\xff\xfe")
    journal.whiteout((b"usr", b"caf\xe9"), "ü".encode())
    journal.opaques.add((b"var",))
    journal.modes[b"etc", b"shadow"] = 0

    text = json.dumps(journal.to_json())

    assert text.isascii()
    assert Journal.from_json(json.loads(text), "journal.json") == journal


def test_the_same_journal_is_always_the_same_json() -> None:
    one, other = Journal(), Journal()
    for name in (b"a", b"b", b"c"):
        one.whiteout((name,), name)
    for name in (b"c", b"b", b"a"):
        other.whiteout((name,), name)
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())


@pytest.mark.parametrize(
    "damage",
    [
        {"whiteouts": None},
        {"whiteouts": [["etc", "name"]]},
        {"whiteouts": [["etc", ["a/b"]]]},
        {"whiteouts": [["etc", [""]]]},
        {"whiteouts": [["../etc", ["a"]]]},
        {"whiteouts": [["etc", ["a"], 1]]},
        {"opaques": ["/etc"]},
        {"opaques": ["etc/./x"]},
        {"opaques": [1]},
        {"opaques": ["a\0b"]},
        {"modes": [["etc", "0"]]},
        {"modes": [["etc", 0o10000]]},
        {"modes": [[1, 0]]},
    ],
)
def test_a_damaged_journal_is_refused_in_one_line(damage: dict[str, object]) -> None:
    document: dict[str, object] = {"whiteouts": [], "opaques": [], "modes": [], **damage}
    with pytest.raises(StoreCorruptError, match="pull into a new store") as caught:
        Journal.from_json(document, "/store/journal.json")
    assert caught.value.path == "/store/journal.json"
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_damage() -> None:
    with pytest.raises(StoreCorruptError):
        Journal.from_json({"whiteouts": [], "opaques": []}, "journal.json")


def test_paths_and_text() -> None:
    assert path_to_text(()) == ""
    assert text_to_path("") == ()
    assert text_to_path(path_to_text((b"usr", b"\xff"))) == (b"usr", b"\xff")


def test_a_layer_knows_where_its_journal_matters() -> None:
    journal = Journal()
    journal.whiteout((b"a", b"b"), b"x")
    journal.opaques.add((b"c",))
    journal.whiteouts[b"unused",] = set()
    layer = LayerTree("/nowhere", journal)
    assert layer.marked == {(), (b"a",), (b"a", b"b"), (b"c",)}
    assert layer.hides((b"a", b"b"), b"x")
    assert not layer.hides((b"a", b"b"), b"y")
    assert not layer.hides((b"a",), b"x")


def test_a_layer_does_not_change_with_the_journal_it_came_from() -> None:
    journal = Journal()
    journal.whiteout((), b"x")
    layer = LayerTree("/nowhere", journal)
    journal.whiteout((), b"y")
    journal.opaques.add(())
    assert not layer.hides((), b"y")
    assert not layer.opaques
