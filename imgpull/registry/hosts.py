"""Which hosts serve a registry: the registry itself, later its mirrors, and in which scheme each is spoken to.

Words
    *registry*: the name a reference begins with (``docker.io``, ``localhost:5000``).
    *host*: one server that answers for it, with scheme, address and path; a registry has one or more.
    *origin*: the host that is the registry itself, asked last; the others are *mirrors*.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imgpull.errors import InvalidReferenceError
from imgpull.oci.strict_json import shown

__all__ = ["DOCKER_HUB", "DefaultHosts", "Host", "Hosts", "is_loopback", "split_port"]

DOCKER_HUB = "docker.io"
_DOCKER_HUB_ADDRESS = "registry-1.docker.io"
_ALL_CAPABILITIES = frozenset({"pull", "resolve"})
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/@?#\[\]\s]+)(?::([0-9]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Host:
    """One server that answers for a registry."""

    registry: str
    """The registry's name in references; credentials are looked up by it, unless this is a mirror."""
    scheme: str
    """``https``, or ``http`` where that was asked for."""
    address: str
    """``host`` or ``host:port``."""
    base_path: str = "/v2"
    capabilities: frozenset[str] = _ALL_CAPABILITIES
    """``pull``: manifests by digest and blobs. ``resolve``: tags too; a public mirror should not be asked for those."""
    namespace: str | None = None
    """Set for a mirror: sent as ``?ns=``, so that one mirror can serve several registries (containerd hosts.md)."""

    @property
    def base_url(self) -> str:
        """Everything before the repository, without a slash at the end."""
        return f"{self.scheme}://{self.address}{self.base_path}"

    @property
    def credential_name(self) -> str:
        """What its credentials are stored under. A mirror has its own: the registry's never go to it."""
        return self.address if self.namespace is not None else self.registry


class Hosts(Protocol):
    """Where to ask for a registry's images. ``connect(hosts=…)`` takes any implementation."""

    def hosts_for(self, registry: str) -> Sequence[Host]:
        """The hosts to try, in order: mirrors first, the origin last. Never empty."""


class DefaultHosts:
    """Every registry is its own only host: HTTPS, except on loopback and where ``plain_http`` names it.

    There is no fallback: a host is spoken to in the one scheme decided here, whatever TLS says (a fallback on failed
    TLS hands every reader of the network a way to switch it off).
    """

    def __init__(self, plain_http: Iterable[str] = ()) -> None:
        names = (plain_http,) if isinstance(plain_http, str) else plain_http
        self.plain_http = frozenset(_plain_name(name) for name in names)
        """Registries to speak plain HTTP with, as they stand in references: ``host`` or ``host:port``."""

    def hosts_for(self, registry: str) -> Sequence[Host]:
        """One host: the registry itself."""
        address = _DOCKER_HUB_ADDRESS if registry == DOCKER_HUB else registry
        plain = is_loopback(registry) or registry.lower() in self.plain_http
        return (Host(registry=registry, scheme="http" if plain else "https", address=address),)


def is_loopback(registry: str) -> bool:
    """Whether the name is ``localhost`` or an address of 127.0.0.0/8 or ::1, with or without a port."""
    host, _ = split_port(registry)
    if host.lower() == "localhost":
        return True
    import ipaddress  # 2 ms

    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    # Not address.is_loopback for IPv6: it counts ::ffff:127.0.0.1 on some Python versions and not on others.
    return address.is_loopback if address.version == 4 else address == ipaddress.IPv6Address(1)


def split_port(address: str) -> tuple[str, int | None]:
    """``host`` and port of ``host[:port]``; an IPv6 address keeps its brackets. ``("", None)`` when it is neither."""
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        return ("", None)
    return match[1], int(match[2]) if match[2] else None


def _plain_name(name: str) -> str:
    if not isinstance(name, str) or split_port(name) == ("", None):
        raise InvalidReferenceError(f"plain_http takes registries as host or host:port, not {shown(name)}")
    return name.lower()
