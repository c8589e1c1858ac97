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
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from imgpull.errors import DigestMismatchError, InvalidImageError
from imgpull.limits import Limits
from imgpull.registry.blob import BlobResponse
from imgpull.registry.client import OnRequest, RawManifest, RegistryClient
from imgpull.registry.credentials import Anonymous, Credential, Credentials, DockerConfig
from imgpull.registry.hosts import DefaultHosts, Host, Hosts
from imgpull.registry.resolver import Resolution, Resolver
from imgpull.registry.retry import Retry

if TYPE_CHECKING:
    from imgpull.locking import Cancellation
    from imgpull.oci import Descriptor, Digest
    from imgpull.reference import Reference

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


class Registry:
    """All registries, under one policy of hosts, credentials and limits. Any thread may call any method.

    Several may stand on one client and share what it has (see :func:`connect`); those are equal. Idle connections are
    closed when the last of them is closed or gone.

    Every method takes a ``cancel``: when it fires, the request is cut and PullCancelledError raised.
    ``on_request(address, offset_bytes)`` is told of each GET for a manifest or blob before it goes out.
    """

    def __init__(self, client: RegistryClient, limits: Limits) -> None:
        self._client = client
        self._resolver = Resolver(client)
        self._limits = limits
        self._end = weakref.finalize(self, _leave, client)
        _enter(client)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registry) and other._client is self._client

    def __hash__(self) -> int:
        return hash(self._client)

    def close(self) -> None:
        """Be done with it. Again: no effect."""
        self._end()

    @property
    def retry(self) -> Retry:
        """The policy for repeating, for the loop of whoever reads bodies: ``worth_retrying(error)``, ``attempts``,
        ``pause(attempt, error, cancel)``."""
        return self._client.retry

    def resolve(
        self, reference: Reference, cancel: Cancellation | None = None, on_request: OnRequest | None = None
    ) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        return self._resolver.resolve(reference, cancel, on_request)

    def get_manifest(
        self,
        reference: Reference,
        digest: Digest | None = None,
        cancel: Cancellation | None = None,
        on_request: OnRequest | None = None,
    ) -> RawManifest:
        """See :meth:`RegistryClient.get_manifest`."""
        return self._client.get_manifest(reference, digest, cancel, on_request)

    def open_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        offset_bytes: int = 0,
        cancel: Cancellation | None = None,
        on_request: OnRequest | None = None,
        avoid: Collection[str] = (),
    ) -> BlobResponse:
        """See :meth:`RegistryClient.open_blob`."""
        return self._client.open_blob(reference, descriptor, offset_bytes, cancel, on_request, avoid)

    def read_blob(self, reference: Reference, descriptor: Descriptor, cancel: Cancellation | None = None) -> bytes:
        """A small blob (a config), whole and verified, held in memory.

        Raises InvalidImageError above ``limits.config_bytes``, DigestMismatchError, and as ``open_blob``.
        """
        size = descriptor.size_bytes
        if size > self._limits.config_bytes:
            raise InvalidImageError(
                f"blob {descriptor.digest} has {size} bytes; raise Limits.config_bytes if you trust it",
                digest=descriptor.digest,
                media_type=descriptor.media_type,
            )
        data = self.retry.call(lambda: self._read(reference, descriptor, cancel), reference.domain, cancel)
        if not descriptor.digest.matches(data):
            raise DigestMismatchError(
                f"{reference.domain}: blob {descriptor.digest} arrived with other content; it was changed on the way or"
                " in the registry",
                expected=descriptor.digest,
                actual=type(descriptor.digest).of_bytes(data, descriptor.digest.algorithm),
            )
        return data

    def tags(self, reference: Reference, cancel: Cancellation | None = None) -> Iterator[str]:
        """See :meth:`RegistryClient.tags`."""
        return self._client.tags(reference, cancel)

    def _read(self, reference: Reference, descriptor: Descriptor, cancel: Cancellation | None) -> bytes:
        data = bytearray(descriptor.size_bytes + 1)
        view, position = memoryview(data), 0
        with self.open_blob(reference, descriptor, 0, cancel) as blob:
            while size := blob.readinto(view[position:]):
                position += size
        return bytes(view[:position])


_shared: weakref.WeakValueDictionary[tuple[frozenset[str], Limits], RegistryClient] = weakref.WeakValueDictionary()
_users: weakref.WeakKeyDictionary[RegistryClient, int] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # guards _shared and _users; a finalizer may run anywhere, in its holder too


def _enter(client: RegistryClient) -> None:
    with _lock:
        _users[client] = _users.get(client, 0) + 1


def _leave(client: RegistryClient) -> None:
    with _lock:
        _users[client] = left = _users.get(client, 0) - 1
    if left <= 0:
        client.close()


def _forget_shared() -> None:
    # A lock in there may be held by a thread that a forked child doesn't have.
    global _lock, _shared  # noqa: PLW0603
    _lock, _shared = threading.RLock(), weakref.WeakValueDictionary()


os.register_at_fork(after_in_child=_forget_shared)


def connect(
    plain_http: Iterable[str] = (),
    hosts: Hosts | None = None,
    credentials: Credentials | None = None,
    limits: Limits | None = None,
) -> Registry:
    """The registries of the world under this policy; opens no connection.

    ``plain_http``: registries (``host`` or ``host:port``) to speak plain HTTP with, beside those on loopback; not used
    where ``hosts`` is given. ``credentials``: by default docker's configuration. Callers with the same policy, and the
    default hosts and credentials, share one client: its connections, its tokens, its patience. Close what is returned.

    Raises InvalidReferenceError when ``plain_http`` has something else than registries in it.
    """
    limits = limits if limits is not None else Limits()
    if hosts is not None or credentials is not None:
        return Registry(_client(hosts or DefaultHosts(plain_http), credentials or DockerConfig(), limits), limits)
    policy = DefaultHosts(plain_http)
    with _lock:
        client = _shared.get((policy.plain_http, limits))
        if client is None:
            client = _shared[policy.plain_http, limits] = _client(policy, DockerConfig(), limits)
        return Registry(client, limits)


def _client(hosts: Hosts, credentials: Credentials, limits: Limits) -> RegistryClient:
    from imgpull.registry.auth import Authorizer
    from imgpull.registry.exchange import Exchange
    from imgpull.registry.transport import Transport

    transport = Transport()
    exchange = Exchange(transport, Authorizer(transport, credentials, limits), limits)
    return RegistryClient(hosts, exchange, Retry(), limits)
