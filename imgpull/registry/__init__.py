"""Registries, by HTTP: nothing in here touches a disk but to read docker's configuration.

    registry = connect()                                   # cheap: nothing is imported or opened before it is used
    found = registry.resolve(reference)                    # HEAD, or GET; nothing for a digest
    raw, content_type = registry.get_manifest(reference, found.digest)
    with registry.open_blob(reference, layer, offset_bytes=resume_at) as blob:
        if blob.offset_bytes != resume_at: ...             # the server began at 0: start again
        while size := blob.readinto(view): ...             # 0 only when the blob is complete

Question by question, from the top down::

    resolver   tag → digest                       hosts        which servers answer for a registry
    client     what is asked, over all hosts      retry        how often, how soon; all threads hold off together
    exchange   one question to one host           auth, token  what to show it; one token for all threads
    redirects  by hand, credentials stay behind   credentials  docker's config.json and its helpers
    transport  the only user of requests, urllib3

What a process needs that only waits for another one's answer is imported with the room; all that asks or is asked
comes with the first question (:class:`~imgpull.registry.registry.LazyClient`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from imgpull.registry.hosts import DefaultHosts, Host, Hosts
from imgpull.registry.registry import Registry, connect
from imgpull.registry.resolver import Resolution

if TYPE_CHECKING:
    from imgpull.registry.blob import BlobResponse
    from imgpull.registry.client import OnRequest, RawManifest
    from imgpull.registry.credentials import Anonymous, Credential, Credentials, DockerConfig
    from imgpull.registry.retry import Retry

__all__ = [
    "Anonymous",
    "BlobResponse",
    "Credential",
    "Credentials",
    "DefaultHosts",
    "DockerConfig",
    "Host",
    "Hosts",
    "OnRequest",
    "RawManifest",
    "Registry",
    "Resolution",
    "Retry",
    "connect",
]

_HOMES = {
    "Anonymous": "credentials",
    "BlobResponse": "blob",
    "Credential": "credentials",
    "Credentials": "credentials",
    "DockerConfig": "credentials",
    "OnRequest": "client",
    "RawManifest": "client",
    "Retry": "retry",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
