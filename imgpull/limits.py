"""Every limit on what a registry or an image may make this process do, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits with defaults no ordinary image meets; exceeding one raises :class:`~imgpull.LimitExceededError`
    or, for a document, :class:`~imgpull.InvalidImageError`."""

    manifest_bytes: int = 4 * _MIB
    """One manifest or index (the distribution specification asks registries to accept at least 4 MiB)."""
    config_bytes: int = 4 * _MIB
    """One image config (containers/image caps it at the same figure)."""
    token_bytes: int = 1 * _MIB
    """The reply of a token endpoint (containers/image)."""
    error_body_bytes: int = 64 * _KIB
    """What is read of an error reply."""
    index_depth: int = 4
    """Index within index."""
    index_nodes: int = 10_000
    layers: int = 500
    """overlayfs takes 500 lower directories and no more (measured, Linux 6.18)."""
    layer_entries: int = 10_000_000
    layer_bytes: int = 1024 * _GIB
    """Uncompressed bytes of one layer."""
    layer_ratio: int = 1_000
    """Uncompressed ÷ compressed bytes, looked at once ``ratio_after_bytes`` came out; gzip can't exceed 1 032."""
    ratio_after_bytes: int = 10 * _MIB
    path_depth: int = 1_024
    path_bytes: int = 4_096
    """PATH_MAX."""
    pax_bytes: int = 1 * _MIB
    """Extended headers of one entry, PAX and GNU together."""
    xattrs_per_entry: int = 256
    xattr_bytes: int = 64 * _KIB
    """One value (XATTR_SIZE_MAX)."""
    zstd_window_log: int = 27
    """128 MiB, zstd's own default for decoders."""
