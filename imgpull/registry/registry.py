"""Registry: what the rooms above ask, and who shares a client with whom."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from imgpull.errors import DigestMismatchError, InvalidImageError
from imgpull.limits import Limits
from imgpull.registry.hosts import DefaultHosts
from imgpull.registry.resolver import Resolution, Resolver

if TYPE_CHECKING:
    from imgpull.locking import Cancellation
    from imgpull.oci import Descriptor, Digest
    from imgpull.reference import Reference
    from imgpull.registry.blob import BlobResponse
    from imgpull.registry.client import OnRequest, RawManifest, RegistryClient
    from imgpull.registry.credentials import Credentials
    from imgpull.registry.hosts import Hosts
    from imgpull.registry.retry import Retry

__all__ = ["LazyClient", "Registry", "connect"]


class Registry:
    """All registries, under one policy of hosts, credentials and limits. Any thread may call any method.

    Several may stand on one client and share what it has (see :func:`connect`); those are equal. Idle connections are
    closed when the last of them is closed or gone.

    Every method takes a ``cancel``: when it fires, the request is cut and PullCancelledError raised.
    ``on_request(address, offset_bytes)`` is told of each GET for a manifest or blob before it goes out.
    """

    def __init__(self, client: LazyClient, limits: Limits) -> None:
        self._lazy = client
        self._limits = limits
        self._end = weakref.finalize(self, _leave, client)
        _enter(client)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registry) and other._lazy is self._lazy

    def __hash__(self) -> int:
        return hash(self._lazy)

    @property
    def _client(self) -> RegistryClient:
        return self._lazy.get()

    def close(self) -> None:
        """Be done with it. Again: no effect."""
        self._end()

    def load(self) -> None:
        """Import what a question needs, so that asking takes no longer than the answer."""
        self._client.load()

    def terms(self, reference: Reference) -> str | None:
        """What decides, beside the reference, what the registry says and to whom: equal in two processes where both
        would ask the same hosts with the same trust and the same credentials. None where only this process can know."""
        return self._lazy.terms(reference.domain)

    @property
    def retry(self) -> Retry:
        """The policy for repeating, for the loop of whoever reads bodies: ``worth_retrying(error)``, ``attempts``,
        ``pause(attempt, error, cancel)``."""
        return self._client.retry

    def resolve(
        self, reference: Reference, cancel: Cancellation | None = None, on_request: OnRequest | None = None
    ) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        return Resolver(self._client).resolve(reference, cancel, on_request)

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


class LazyClient:
    """A client made with the first question. ``policy``: its hosts, where these and its credentials are the default."""

    def __init__(self, make: Callable[[], RegistryClient], policy: DefaultHosts | None = None) -> None:
        self._make = make
        self._policy = policy
        self._client: RegistryClient | None = None

    def get(self) -> RegistryClient:
        if self._client is None:
            import imgpull.registry.client  # noqa: F401  # not under the lock: a finalizer takes it, inside any import

            with _lock:
                if self._client is None:
                    self._client = self._make()
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def terms(self, registry: str) -> str | None:
        """See :meth:`Registry.terms`."""
        if self._policy is None:
            return None
        from imgpull.registry.credentials import DockerConfig

        asked = [host.base_url for host in self._policy.hosts_for(registry)]
        trusted = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
        return hashlib.sha256(repr((asked, trusted, DockerConfig().version)).encode()).hexdigest()


_shared: weakref.WeakValueDictionary[tuple[frozenset[str], Limits], LazyClient] = weakref.WeakValueDictionary()
_users: weakref.WeakKeyDictionary[LazyClient, int] = weakref.WeakKeyDictionary()
_lock = (
    threading.RLock()
)  # guards _shared, _users and the making of clients; a finalizer may run anywhere, in its holder too


def _enter(client: LazyClient) -> None:
    with _lock:
        _users[client] = _users.get(client, 0) + 1


def _leave(client: LazyClient) -> None:
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
        own = partial(_client, hosts or DefaultHosts(plain_http), credentials, limits)
        return Registry(LazyClient(own), limits)
    policy = DefaultHosts(plain_http)
    with _lock:
        client = _shared.get((policy.plain_http, limits))
        if client is None:
            client = LazyClient(partial(_client, policy, None, limits), policy)
            _shared[policy.plain_http, limits] = client
        return Registry(client, limits)


def _client(hosts: Hosts, credentials: Credentials | None, limits: Limits) -> RegistryClient:
    from imgpull.registry.auth import Authorizer
    from imgpull.registry.client import RegistryClient
    from imgpull.registry.credentials import DockerConfig
    from imgpull.registry.exchange import Exchange
    from imgpull.registry.retry import Retry
    from imgpull.registry.transport import Transport

    transport = Transport()
    exchange = Exchange(transport, Authorizer(transport, credentials or DockerConfig(), limits), limits)
    return RegistryClient(hosts, exchange, Retry(), limits)
