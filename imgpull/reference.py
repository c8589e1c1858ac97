"""Reference: the name of an image, ``[DOMAIN/]PATH[:TAG][@DIGEST]`` (github.com/distribution/reference).

What a user leaves out is filled in as docker does: ``redis`` is ``docker.io/library/redis:latest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from imgpull.errors import ImageError, InvalidReferenceError
from imgpull.oci.digest import Digest
from imgpull.oci.strict_json import shown

__all__ = ["DEFAULT_DOMAIN", "DEFAULT_TAG", "Reference"]

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DEFAULT_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"

# regexp.go, ported piece by piece; matched with fullmatch, because Python's "$" lets a trailing newline through.
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN = re.compile(
    rf"(?P<host>{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::(?P<port>[0-9]+))?", re.ASCII
)
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_IDENTIFIER = re.compile(r"(?:sha256:)?[a-f0-9]{64}", re.ASCII)

_DIGEST_STARTS = ("sha256:", "sha512:")

_PATH_MAX = 255
"""Characters (``RepositoryNameTotalLengthMax``)."""
_DOMAIN_MAX = 255
"""Characters of a DNS name (RFC 1035); a port comes on top."""
_PORT_MAX = 65_535
_TEXT_MAX = 1_024
"""Characters: more than path, domain, tag and digest at their longest; what is longer is refused unread."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference. Every part has been checked: it is safe in a URL path and in a message.

    At least one of ``tag`` and ``digest`` is there; where both are, the digest decides and the tag is a remark.
    """

    domain: str
    """Host and port, ``docker.io`` or ``[::1]:5000``."""
    path: str
    """The repository within its registry, ``library/redis``."""
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        reason = _fault_of_domain(self.domain) or _fault_of_path(self.path) or _fault_of_tag(self.tag)
        if not reason and self.tag is None and self.digest is None:
            reason = "neither a tag nor a digest"
        if reason:
            raise InvalidReferenceError(f"invalid reference {_safe(f'{self.domain}/{self.path}')}: {reason}")
        if self.digest is not None:
            object.__setattr__(self, "digest", Digest(self.digest))

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads what a user writes. Raises InvalidReferenceError, which says what is wrong and how to write it."""
        reason = _fault_of_text(text)
        if reason:
            raise _invalid(text, reason)
        name, at, digest_text = text.partition("@")
        digest = _digest(text, digest_text) if at else None
        domain, remainder = _split_domain(name)
        path, colon, tag = remainder.partition(":")
        if path != path.lower():
            raise _invalid(text, "the repository name must be lower case")
        if colon and _fault_of_tag(tag):
            raise _invalid(text, _fault_of_tag(tag))
        fault = _fault_of_domain(domain) or _fault_of_path(path)
        if fault:
            raise _invalid(text, fault)
        return cls(domain, path, tag if colon else None if digest else DEFAULT_TAG, digest)

    @property
    def name(self) -> str:
        """Domain and path: the repository's name in the world."""
        return f"{self.domain}/{self.path}"

    @property
    def repository(self) -> str:
        """The repository's name within its registry, as in a URL."""
        return self.path

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest where there is one, else the tag."""
        return str(self.digest or self.tag)

    @property
    def familiar(self) -> str:
        """The short form in docker's listings: ``redis:7.2`` for ``docker.io/library/redis:7.2``."""
        if self.domain != DEFAULT_DOMAIN:
            return str(self)
        short = self.path.removeprefix(_OFFICIAL)
        return (self.path if "/" in short else short) + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_digest(self, digest: Digest) -> Reference:
        """The same, pinned to ``digest``; the tag stays as a remark."""
        return replace(self, digest=digest)

    def with_tag(self, tag: str) -> Reference:
        """The same repository's ``tag``; a digest goes."""
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        """The full form, which :meth:`parse` reads back to an equal value."""
        return self.name + self._suffix


def _split_domain(name: str) -> tuple[str, str]:
    """Domain, and the rest with its tag (``splitDockerDomain``): a first part is a domain if it looks like one."""
    first, slash, rest = name.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + name
    domain, remainder = DEFAULT_DOMAIN, name
    if first in (DEFAULT_DOMAIN, _LEGACY_DEFAULT_DOMAIN):
        remainder = rest
    elif first == "localhost" or "." in first or ":" in first or first != first.lower():
        domain, remainder = first, rest
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _fault_of_text(text: str) -> str:
    if not isinstance(text, str) or not text:
        return "empty"
    if len(text) > _TEXT_MAX:
        return f"longer than {_TEXT_MAX} characters"
    if "://" in text:
        return "leave out the scheme"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "only printable ASCII without spaces is allowed"
    if _IDENTIFIER.fullmatch(text):
        return "a digest alone names no repository"
    return ""


def _fault_of_domain(domain: str) -> str:
    match = _DOMAIN.fullmatch(domain)
    if match is None or len(match["host"]) > _DOMAIN_MAX:
        return f"{_safe(domain)} is no registry host"
    if match["port"] and (len(match["port"]) > len(str(_PORT_MAX)) or int(match["port"]) > _PORT_MAX):
        return f"the port must be at most {_PORT_MAX}"
    return ""


def _fault_of_path(path: str) -> str:
    if len(path) > _PATH_MAX:
        return f"the repository name is longer than {_PATH_MAX} characters"
    if _PATH.fullmatch(path) is None:
        return f"{_safe(path)} is no repository name"
    return ""


def _fault_of_tag(tag: str | None) -> str:
    if tag is None or _TAG.fullmatch(tag):
        return ""
    return "a tag is 1 to 128 letters, digits, '_', '.' and '-', and starts with neither '.' nor '-'"


def _digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest(digest_text)
    except ImageError as error:
        # The digest's own message quotes it; after a password's "@" that could be the other half of the password.
        reason = (
            str(error) if digest_text.startswith(_DIGEST_STARTS) else "what follows '@' is no sha256 or sha512 digest"
        )
        raise _invalid(text, reason) from None


def _invalid(text: str, reason: str) -> InvalidReferenceError:
    return InvalidReferenceError(f"invalid reference {_safe(text)}: {reason}; write [HOST/]NAME[:TAG][@DIGEST]")


def _safe(text: str) -> str:
    """``text`` for a message, without a password (``user:pass@host``) or the query of a signed URL."""
    credentials, at, rest = text.partition("@")
    if at and not rest.startswith(_DIGEST_STARTS):
        scheme = credentials.partition("://")[0] + "://" if "://" in credentials else ""
        text = f"{scheme}***@{rest.rpartition('@')[2]}" if "/" in rest else f"{scheme}***"
    return shown(text.partition("?")[0])
