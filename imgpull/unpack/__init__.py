"""From blobs to snapshots: decompress, read the tar, apply it to a layer's own directory, commit by chain ID.

:class:`Unpacker` is the conductor, :mod:`~imgpull.unpack.step` what happens to one layer, and
:mod:`~imgpull.unpack.applier` what becomes of its entries.
"""

from imgpull.unpack.decompress import Readable
from imgpull.unpack.step import LayerSource
from imgpull.unpack.unpacker import Unpacker

__all__ = ["LayerSource", "Readable", "Unpacker"]
