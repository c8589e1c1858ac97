from __future__ import annotations

import hashlib
import json
import pickle

import pytest

from imgpull.errors import InvalidImageError, UnsupportedMediaTypeError
from imgpull.oci import Digest

HEX = "0123456789abcdef" * 4


def test_a_digest_is_a_string_with_parts() -> None:
    digest = Digest(f"sha256:{HEX}")
    assert (digest.algorithm, digest.encoded) == ("sha256", HEX)
    assert digest == f"sha256:{HEX}" and {digest: 1}[f"sha256:{HEX}"] == 1  # type: ignore[index]
    assert json.dumps([digest]) == f'["sha256:{HEX}"]'
    assert Digest(digest) is digest
    assert Digest.of("sha512", HEX * 2).algorithm == "sha512"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_it_is_computed_and_checked_with_its_own_algorithm(algorithm: str) -> None:
    digest = Digest.of_bytes(b"hello", algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, b'hello').hexdigest()}"
    hasher = digest.hasher()
    hasher.update(b"hello")
    assert Digest.from_hasher(hasher) == digest
    assert digest.matches(memoryview(b"hello")) and not digest.matches(b"hello ")


def test_it_pickles_as_itself() -> None:
    digest = Digest.of_bytes(b"x")
    twin = pickle.loads(pickle.dumps(digest))
    assert type(twin) is Digest and twin == digest


# facts: c/image's digest strings, CVE-2024-3727, CVE-2021-21285, CVE-2014-9356
MALFORMED = [
    "",
    "abc",
    "crc32:",
    "sha256:",
    "sha256:0",
    "sha256:01",
    f"sha256:{HEX[:-1]}",
    f"sha256:{HEX}0",
    f"sha256:{HEX.upper()}",
    f"sha256:{HEX}\n",
    f" sha256:{HEX}",
    f"SHA256:{HEX}",
    f"sha512:{HEX}",
    "sha256:../../etc",
    "sha256:" + "%2e%2e%2f" * 7 + "e",
    f"sha256:{HEX[:-1]}?",
    f"sha256:{HEX[:-1]}#",
    f"sha256:{HEX[:-1]}\0",
    f"sha256:{HEX[:-1]}\u0663",  # a digit to \d and to str.isdigit, not to a file name
    f"sha256:{HEX[:-1]}\uff11",
    "sha256:" + "a" * 2**20,
    f"sha256{HEX}",
    f":{HEX}",
    f"sha256+:{HEX}",
    HEX,
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: ascii(text)[:40])
def test_a_malformed_digest_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        Digest(text)
    message = str(caught.value)
    assert message.isascii() or "…" in message
    assert "\n" not in message and "\0" not in message and len(message) < 300


@pytest.mark.parametrize(
    "text",
    [
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "crc32:01234567",
        f"sha384:{HEX}{HEX[:32]}",
        f"blake3:{HEX}",
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
    ],
)
def test_an_unknown_algorithm_is_unsupported_not_malformed(text: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="is not supported"):
        Digest(text)


def test_an_unknown_algorithm_can_not_be_computed() -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        Digest.of_bytes(b"", "md5")


@pytest.mark.parametrize("value", [None, 1, b"sha256:"])
def test_only_text_is_a_digest(value: object) -> None:
    with pytest.raises(InvalidImageError):
        Digest(value)  # type: ignore[arg-type]
