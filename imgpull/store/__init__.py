"""The store: what was pulled, on the disk.

::

    <root>/                    mode 0700; readable by skopeo, umoci and crane as an OCI image layout
    ├── oci-layout, index.json    derived from the image records                       layout.py
    ├── blobs/sha256/…            content by digest, never written to                  blobs.py
    ├── ingest/…                  blobs on their way, and their readers      ingest.py, blob_writer.py, following.py
    ├── snapshots/…               unpacked layers by ChainID                           snapshots/, group_sync.py
    ├── metadata.db               labels, diff IDs, snapshots, image records           database/
    └── metadata.lock, index.lock

Files come first and rows second when something is added, rows first when it is removed. Blobs and snapshots rest on no
lock: two processes that fetch the same blob do the work twice and one of them wins. Only metadata.db needs its lock.
"""

from __future__ import annotations

from imgpull.store.content import ContentStore, Follower, Info, IngestEnded, Status, Waiting, Writer
from imgpull.store.images import Image, Images, Layer
from imgpull.store.store import Parts, Store, default_root

__all__ = [
    "ContentStore",
    "Follower",
    "Image",
    "Images",
    "Info",
    "IngestEnded",
    "Layer",
    "Parts",
    "Status",
    "Store",
    "Waiting",
    "Writer",
    "default_root",
]
