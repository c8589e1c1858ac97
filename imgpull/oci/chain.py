"""ChainID: the name of a stack of layers (image-spec config.md, "Layer ChainID")."""

from __future__ import annotations

from collections.abc import Sequence

from imgpull.oci.digest import Digest

__all__ = ["EMPTY_CHAIN_ID", "chain_ids"]

EMPTY_CHAIN_ID = Digest.of_bytes(b"")
"""ChainID of an image without layers: an explicit empty snapshot.

The specification names none. This one is also what a single layer of no bytes at all gives, which is the same empty
tree, so the two may share a snapshot."""


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """The ChainID of every prefix of ``diff_ids``, bottom first; the last one names the whole stack.

    Always sha256, whatever the diff IDs' algorithm, as in the specification's Go package ``identity``.
    """
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of_bytes(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
