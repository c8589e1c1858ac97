"""imgpull: pull OCI and Docker images from registries, many threads at once, each piece of work done exactly once.

::

    text ─▶ reference ─▶ registry ─▶ fetch ─▶ store.content ─▶ unpack ─▶ store.snapshots ─▶ image record
            "redis:7.2"  tag → digest  blob://digest            sn://snapshotter/chain ID
    twenty callers       one HEAD      one GET per blob         one application per chain    one Image for all

    with imgpull.Store("/var/lib/imgpull") as store, imgpull.Puller(store) as puller:
        image = puller.pull("docker.io/library/redis:7.2")

Everything below is imported when it is first used: ``import imgpull`` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from imgpull import errors as _errors
from imgpull.errors import *  # noqa: F403

if TYPE_CHECKING:
    from imgpull.default import pull
    from imgpull.events import Event
    from imgpull.limits import Limits
    from imgpull.locking import Cancellation, KeyedLock, KeyedMutex, NoSuppression
    from imgpull.oci import Descriptor, Digest, ImageConfig, Platform
    from imgpull.puller import Puller
    from imgpull.reference import Reference
    from imgpull.registry import Credential, Credentials, Host, Hosts, Resolution
    from imgpull.store import Image, Layer, Store
    from imgpull.store.snapshots import Rootfs

__version__ = "0.1.0"

_HOMES = {
    "pull": "default",
    "Event": "events",
    "Limits": "limits",
    "Cancellation": "locking",
    "KeyedLock": "locking",
    "KeyedMutex": "locking",
    "NoSuppression": "locking",
    "Descriptor": "oci",
    "Digest": "oci",
    "ImageConfig": "oci",
    "Platform": "oci",
    "Puller": "puller",
    "Reference": "reference",
    "Credential": "registry",
    "Credentials": "registry",
    "Host": "registry",
    "Hosts": "registry",
    "Resolution": "registry",
    "Image": "store",
    "Layer": "store",
    "Store": "store",
    "Rootfs": "store.snapshots",
}

__all__ = [  # noqa: F405, PLE0604
    *_errors.__all__,
    "Cancellation",
    "Credential",
    "Credentials",
    "Descriptor",
    "Digest",
    "Event",
    "Host",
    "Hosts",
    "Image",
    "ImageConfig",
    "KeyedLock",
    "KeyedMutex",
    "Layer",
    "Limits",
    "NoSuppression",
    "Platform",
    "Puller",
    "Reference",
    "Resolution",
    "Rootfs",
    "Store",
    "pull",
]

logging.getLogger("imgpull").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'imgpull' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"imgpull.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
