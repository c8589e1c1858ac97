"""What this library asks of registries (distribution-spec 1.1: pull, and listing tags), over all hosts of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from imgpull.errors import (
    DigestMismatchError,
    ImageError,
    InvalidImageError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
    UnsupportedMediaTypeError,
    VerificationError,
)
from imgpull.oci import Descriptor, Digest, media_types
from imgpull.registry.blob import BlobResponse, open_blob
from imgpull.registry.exchange import Exchange, Question
from imgpull.registry.tags import tags_of

if TYPE_CHECKING:
    from imgpull.limits import Limits
    from imgpull.locking import Cancellation
    from imgpull.reference import Reference
    from imgpull.registry.hosts import Host, Hosts
    from imgpull.registry.retry import Retry
    from imgpull.registry.transport import Response

__all__ = ["OnRequest", "RawManifest", "RegistryClient"]

_logger = logging.getLogger("imgpull.registry")

T = TypeVar("T")

OnRequest = Callable[[str, int], None]
"""Told of each GET for a manifest or blob before it goes out: the host's address, the offset in bytes."""

_MIRROR_ATTEMPTS = 2
"""At a host that has another one behind it: a mirror that is down must not cost the whole back-off."""
_NOT_BY_HEAD = frozenset({400, 403, 404, 405, 406, 501})
"""Answers to HEAD after which GET is asked, for it may do better, and says why when it doesn't (containerd, R11)."""


class RawManifest(NamedTuple):
    """A manifest or index as it was sent; ``imgpull.oci`` parses it."""

    raw: bytes
    content_type: str
    """Without parameters, in lower case; empty where the registry gave none."""


class RegistryClient:
    """The pull side of the distribution protocol. Stateless beyond what its parts share; any thread may call.

    Every method tries the registry's hosts in order, each with its own attempts, and raises the most telling error
    when none answers: the last, except that "not found" says less than any other (a mirror may simply not have it).
    """

    def __init__(self, hosts: Hosts, exchange: Exchange, retry: Retry, limits: Limits) -> None:
        self._hosts = hosts
        self._exchange = exchange
        self._limits = limits
        self.retry = retry

    def load(self) -> None:
        """Import what talks HTTP."""
        self._exchange.load()

    def close(self) -> None:
        """Close idle connections. Whoever asks again opens new ones."""
        self._exchange.close()

    def head_manifest(self, reference: Reference, cancel: Cancellation | None = None) -> Descriptor | None:
        """What the tag or digest stands for, from the headers alone; None where they don't say, so GET must.

        Raises RegistryError; but a 404 is None too: some registries only know manifests by GET.
        """

        def head(host: Host) -> Descriptor | None:
            accepted = _NOT_BY_HEAD | {200}
            response = self._exchange.whole(
                _manifest_question(host, reference, reference.target),
                method="HEAD",
                limit_bytes=self._limits.error_body_bytes,
                accepted=accepted,
                cancel=cancel,
            )
            return _described(response)

        return self._over_hosts(reference, _capability(reference, None), head, cancel)

    def get_manifest(
        self,
        reference: Reference,
        digest: Digest | None = None,
        cancel: Cancellation | None = None,
        on_request: OnRequest | None = None,
    ) -> RawManifest:
        """The manifest or index with this digest, verified; without one, what the reference's tag (or digest) says.

        Raises NotFoundError and other RegistryErrors, DigestMismatchError when every host sent something else, and
        InvalidImageError above ``limits.manifest_bytes``.
        """
        wanted = digest if digest is not None else reference.digest

        def get(host: Host) -> RawManifest:
            if on_request is not None:
                on_request(host.address, 0)
            question = _manifest_question(host, reference, wanted or reference.target)
            response = self._exchange.whole(question, limit_bytes=self._limits.manifest_bytes, cancel=cancel)
            return self._checked(question, response, wanted)

        return self._over_hosts(reference, _capability(reference, wanted), get, cancel)

    def open_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        offset_bytes: int = 0,
        cancel: Cancellation | None = None,
        on_request: OnRequest | None = None,
        avoid: Collection[str] = (),
    ) -> BlobResponse:
        """The blob's body from ``offset_bytes`` on; the answer's ``offset_bytes`` says where it really begins.

        One attempt per host: who reads the body owns the loop, since most failures come while reading (see
        ``retry.pause``). ``avoid`` names addresses of hosts to leave out, as long as another is left. ``cancel`` works
        until the body has ended. Raises NotFoundError and other RegistryErrors, and SizeMismatchError where the answer
        is announced longer than the descriptor.
        """

        def get(host: Host) -> BlobResponse:
            if on_request is not None:
                on_request(host.address, offset_bytes)
            path, what = f"blobs/{descriptor.digest}", f"blob {descriptor.digest} of {reference.repository}"
            question = Question(host, reference.repository, path, what, accept="*/*")
            return open_blob(self._exchange, question, descriptor, offset_bytes, cancel)

        return self._over_hosts(reference, "pull", get, cancel, avoid=avoid, attempts=1)

    def tags(self, reference: Reference, cancel: Cancellation | None = None) -> Iterator[str]:
        """The repository's tags, page by page, in the registry's order. Raises RegistryError while iterating."""
        first = partial(tags_of, self._exchange, self._limits, reference.repository, cancel=cancel)
        pages = self._over_hosts(reference, "resolve", lambda host: first(host).start(), cancel)
        while True:
            yield from pages.tags
            if not pages.more:
                return
            self.retry.call(pages.turn, pages.host.address, cancel)

    def _over_hosts(
        self,
        reference: Reference,
        capability: str,
        ask: Callable[[Host], T],
        cancel: Cancellation | None,
        avoid: Collection[str] = (),
        attempts: int | None = None,
    ) -> T:
        able = [host for host in self._hosts.hosts_for(reference.domain) if capability in host.capabilities]
        hosts = [host for host in able if host.address not in avoid] or able
        failure: RegistryError | ImageError | VerificationError | None = None
        for number, host in enumerate(hosts, 1):
            tries = attempts or (self.retry.attempts if number == len(hosts) else _MIRROR_ATTEMPTS)
            try:
                return self.retry.call(partial(ask, host), host.address, cancel, tries)
            except (RegistryError, ImageError, VerificationError) as error:
                _logger.debug("%s gave nothing for %s: %s", host.address, reference, error)
                if failure is None or not isinstance(error, NotFoundError) or isinstance(failure, NotFoundError):
                    failure = error
        if failure is not None:
            raise failure
        raise RegistryUnavailableError(
            f"{reference.domain}: no host is configured that may {capability}; check the hosts configuration",
            registry=reference.domain,
        )

    def _checked(self, question: Question, response: Response, digest: Digest | None) -> RawManifest:
        if response.cut_short:
            raise InvalidImageError(
                f"{question.host.credential_name}: {question.what} is larger than {self._limits.manifest_bytes} bytes;"
                " raise Limits.manifest_bytes if you trust it",
                digest=digest or "",
            )
        if digest is not None and not digest.matches(response.body):
            actual = Digest.of_bytes(response.body, digest.algorithm)
            raise DigestMismatchError(
                f"{question.host.credential_name}: {question.what} arrived with digest {actual}; it was changed on the"
                " way or in the registry",
                expected=digest,
                actual=actual,
            )
        return RawManifest(response.body, media_types.bare(response.headers.get("Content-Type")))


def _manifest_question(host: Host, reference: Reference, target: str) -> Question:
    separator = "@" if ":" in target else ":"
    what = f"manifest {reference.repository}{separator}{target}"
    accept = ", ".join(media_types.ACCEPT)
    return Question(host, reference.repository, f"manifests/{target}", what, accept)


def _capability(reference: Reference, digest: Digest | None) -> str:
    return "resolve" if digest is None and reference.digest is None else "pull"


def _described(response: Response) -> Descriptor | None:
    """The descriptor that the headers of a successful HEAD make up, or None."""
    media_type = media_types.bare(response.headers.get("Content-Type"))
    length = response.headers.get("Content-Length", "")
    if response.status != 200 or not (media_types.is_manifest(media_type) or media_types.is_index(media_type)):  # noqa: PLR2004
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 19):  # noqa: PLR2004
        return None
    try:
        digest = Digest(response.headers.get("Docker-Content-Digest", ""))
    except (InvalidImageError, UnsupportedMediaTypeError):
        return None
    return Descriptor(media_type, digest, int(length))
