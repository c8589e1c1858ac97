from __future__ import annotations

import pickle

import pytest

from imgpull.errors import InvalidImageError
from imgpull.oci import strict_json
from imgpull.oci.strict_json import FrozenMap, loads, shown


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": [1, 2.5, true, null, "\xc3\xa9"]}', {"a": [1, 2.5, True, None, "é"]}),
        (b' {"a": {"b": 1}, "c": {"b": 1}} \n', {"a": {"b": 1}, "c": {"b": 1}}),
        (rb'"\ud83d\udc33"', "\U0001f433"),
        (rb'"\\ud800"', r"\ud800"),
        (b"9223372036854775807", 2**63 - 1),
    ],
)
def test_ordinary_json_is_read(raw: bytes, value: object) -> None:
    assert loads(raw, "document") == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "b": 2}}',
        rb'{"a": 1, "\u0061": 2}',
        b"NaN",
        b"[Infinity]",
        b'{"size": -Infinity}',
        b"1e400",
        b"[-1e999]",
        b"1" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32"),
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        rb'{"a": "\ud800"}',
        rb'{"\udc00": 1}',
        rb'[["x\uDBFF"]]',
        b"{} {}",
        b"{}x",
        b"{} // comment",
        b"{/* */}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": "\n"}',
        b"<html></html>",
    ],
    ids=lambda raw: ascii(raw)[:40],
)
def test_json_with_two_meanings_or_none_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidImageError) as caught:
        loads(raw, "index sha256:abc")
    assert str(caught.value).startswith("index sha256:abc is not ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


SIZES_REFUSED = [-1, 2**63, 1.0, 1e3, True, False, "12", [], {}]


@pytest.mark.parametrize("value", SIZES_REFUSED)
def test_an_integer_is_nothing_else(value: object) -> None:
    with pytest.raises(InvalidImageError, match="layer: size must be an integer"):
        strict_json.integer({"size": value}, "size", "layer")


def test_integers_from_zero_to_int64() -> None:
    assert strict_json.integer({"size": 0}, "size", "layer") == 0
    assert strict_json.integer({"size": 2**63 - 1}, "size", "layer") == 2**63 - 1


@pytest.mark.parametrize(
    ("getter", "wrong", "right"),
    [
        (strict_json.text, 1, "x"),
        (strict_json.mapping, [], {"a": 1}),
        (strict_json.array, {}, [1]),
        (strict_json.integer, "1", 1),
    ],
)
def test_getters_name_the_field(getter: object, wrong: object, right: object) -> None:
    assert callable(getter)
    assert getter({"f": right}, "f", "config") == right
    assert getter({}, "f", "config", default=right) == right
    assert getter({"f": None}, "f", "config", default=right) == right
    with pytest.raises(InvalidImageError, match="config: f must be"):
        getter({"f": wrong}, "f", "config", default=right)
    with pytest.raises(InvalidImageError, match="config: f is missing"):
        getter({"f": None}, "f", "config")


def test_arrays_and_objects_of_strings() -> None:
    assert strict_json.texts({"f": ["a", "b"]}, "f", "x") == ("a", "b")
    assert strict_json.texts({}, "f", "x") == ()
    assert strict_json.mapping_of_text({"f": {"a": "b"}}, "f", "x") == {"a": "b"}
    assert strict_json.mapping_of_text({"f": None}, "f", "x") == {}
    for wrong in (["a", 1], [None], "a"):
        with pytest.raises(InvalidImageError, match="x: f must be"):
            strict_json.texts({"f": wrong}, "f", "x")
    for wrong_members in ({"a": 1}, {"a": None}, ["a"]):
        with pytest.raises(InvalidImageError, match="x: f must be"):
            strict_json.mapping_of_text({"f": wrong_members}, "f", "x")
    with pytest.raises(InvalidImageError, match="x: f must be true or false"):
        strict_json.boolean({"f": 1}, "f", "x")


def test_shown_text_fits_on_a_line_of_a_terminal() -> None:
    assert shown("plain") == "'plain'"
    assert shown("\x1b[2J\n\u202e") == r"'\x1b[2J\n\u202e'"
    assert len(shown("x" * 10_000)) < 100


def test_a_frozen_map_is_a_key_and_can_not_change() -> None:
    frozen = FrozenMap({"a": "1", "b": "2"})
    assert frozen == {"b": "2", "a": "1"} == dict(frozen)
    assert hash(frozen) == hash(FrozenMap({"b": "2", "a": "1"}))
    assert pickle.loads(pickle.dumps(frozen)) == frozen
    with pytest.raises(TypeError):
        frozen["a"] = "3"  # type: ignore[index]
    with pytest.raises(AttributeError):
        frozen._members = {}
