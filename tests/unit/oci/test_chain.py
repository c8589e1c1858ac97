from __future__ import annotations

import hashlib

from imgpull.oci import EMPTY_CHAIN_ID, Digest, chain_ids

A, B, C = (Digest.of_bytes(name) for name in (b"a", b"b", b"c"))


def sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_chain_ids_by_the_definition() -> None:
    ab = sha256(f"{A} {B}")
    assert chain_ids([A, B, C]) == (A, ab, sha256(f"{ab} {C}"))
    assert chain_ids([A]) == (A,)
    assert chain_ids([B, A])[-1] != chain_ids([A, B])[-1]


def test_a_prefix_has_the_prefix_of_the_chain() -> None:
    assert chain_ids([A, B, C])[:2] == chain_ids([A, B])


def test_chain_ids_of_image_spec_go_identity() -> None:
    # identity/chainid_test.go: ChainID(["a", "b"]) hashes the text "a b"; here with digests from real layers.
    busybox = Digest("sha256:cfd97936a58000adc09a9f87adeeb7628a2c71d11c4998e6e7f26935fa0cc713")
    upper = Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
    assert chain_ids([busybox, upper])[1] == sha256(f"{busybox} {upper}")


def test_chains_are_sha256_whatever_the_diff_ids_are() -> None:
    assert chain_ids([Digest.of_bytes(b"a", "sha512"), B])[-1].algorithm == "sha256"


def test_no_layers() -> None:
    assert chain_ids([]) == ()
    assert EMPTY_CHAIN_ID == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
