"""The specification's nouns as frozen values: nothing here reads a file or opens a connection.

::

    Reference ─▶ Index ─▶ (platform) ─▶ Manifest ─▶ config: Descriptor ─▶ ImageConfig: diff_ids ─▶ chain_ids
                                            └─────▶ layers: Descriptor …

Text from outside is parsed once, here, into values that cannot be wrong (a ``Digest`` is safe in a path). Raw bytes
are kept beside what was read from them, because a digest names bytes, not meaning.
"""

from __future__ import annotations

from imgpull.oci.chain import EMPTY_CHAIN_ID, chain_ids
from imgpull.oci.config import History, ImageConfig, check_layers
from imgpull.oci.descriptor import Descriptor
from imgpull.oci.digest import Digest, Hasher
from imgpull.oci.index import Index, parse_document
from imgpull.oci.manifest import Manifest
from imgpull.oci.media_types import (
    ACCEPT,
    is_config,
    is_foreign,
    is_index,
    is_layer,
    is_manifest,
    is_schema1,
    layer_compression,
)
from imgpull.oci.platform import Platform
from imgpull.oci.strict_json import FrozenMap

__all__ = [
    "ACCEPT",
    "Descriptor",
    "Digest",
    "EMPTY_CHAIN_ID",
    "FrozenMap",
    "Hasher",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "Platform",
    "chain_ids",
    "check_layers",
    "is_config",
    "is_foreign",
    "is_index",
    "is_layer",
    "is_manifest",
    "is_schema1",
    "layer_compression",
    "parse_document",
]
