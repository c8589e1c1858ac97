"""From blobs to snapshots: decompress, read the tar, apply it to a layer's own directory, commit by chain ID.

:class:`Unpacker` is the conductor; :func:`apply_layer` is what happens to one layer.
"""

from imgpull.unpack.layer import apply_layer
from imgpull.unpack.unpacker import LayerSource, Unpacker

__all__ = ["LayerSource", "Unpacker", "apply_layer"]
