"""Where a URL leads: its origin, how to name it in a message, and where a registry may not send us."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from imgpull.errors import InsecureTransportError
from imgpull.oci.strict_json import shown

__all__ = ["check_target", "origin", "redacted", "same_site"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 16 * 1024
"""Signed URLs reach 2–4 KiB; nobody's reach this."""


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454): credentials stay within one. Raises ValueError for a URL without them."""
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if scheme not in _DEFAULT_PORTS or not host:
        raise ValueError("no http or https URL")
    return scheme, host, parts.port if parts.port is not None else _DEFAULT_PORTS[scheme]


def redacted(url: str) -> str:
    """``url`` for messages and logs: no user, no query (a signature there opens the blob), no fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a malformed URL)"
    bare = SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    return shown(bare.geturl())[1:-1]


def check_target(sender: str, target: str, what: str) -> None:
    """Refuse a URL the host of ``sender`` (a URL) wants us to ask and must not. ``what`` names it in the message.

    Raises InsecureTransportError when ``target`` is not http or https, carries a user or control characters, leaves
    TLS, or is an address from which only our own network answers (a request forged through us: CVE-2026-48978,
    CVE-2026-33990). Names are not resolved here: a name that leads inside meets TLS, and a certificate for it.
    """
    reason = _refusal(sender, target)
    if reason:
        registry = urlsplit(sender).netloc
        raise InsecureTransportError(
            f"{registry}: {what} {redacted(target)} was refused: {reason}; tell whoever runs the registry",
            registry=registry,
        )


def _refusal(sender: str, target: str) -> str:
    if (
        len(target) > _LONGEST_URL
        or not target.isascii()
        or not target.isprintable()
        or " " in target
        or "\\" in target
    ):
        return "it is no proper URL"
    try:
        theirs, ours = origin(target), origin(sender)
    except ValueError:
        return "it is no http or https URL"
    if "@" in urlsplit(target).netloc:
        return "it carries a user name"
    if theirs == ours:
        return ""
    if ours[0] == "https" and theirs[0] != "https":
        return "it leaves TLS"
    return _inside(theirs[1], ours)


def _inside(host: str, ours: tuple[str, str, int]) -> str:
    """Why ``host`` is out of bounds for a request that ``ours`` asks us to make; empty when it isn't."""
    address = _address(host)
    loopback = host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)
    if loopback:
        sender = _address(ours[1])
        at_home = ours[1] == "localhost" or (sender is not None and sender.is_loopback)
        return "" if at_home else "it leads to this machine itself"
    if address is None:
        # inet_aton's short forms ("127.1", "0x7f.1", "2130706433"), which getaddrinfo still takes.
        return "it is an address in disguise" if host.rpartition(".")[2][:1].isdigit() else ""
    if address.is_unspecified or address.is_link_local or address.is_multicast or str(address).startswith("fd00:ec2:"):
        return "it leads to an address that only this machine's network answers"
    # A plain-HTTP registry is one that its user runs, and its storage may well stand beside it.
    if ours[0] == "https" and not address.is_global:
        return "it leads to a private address"
    return ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


# fmt: off
_SHARED_SUFFIXES = (
    "amazonaws.com", "amazonaws.com.cn", "appspot.com", "azurecr.cn", "azurecr.io", "azurecr.us",
    "azurewebsites.net", "cloudapp.net", "cloudfront.net", "cloudsmith.io", "cr.dev", "digitaloceanspaces.com",
    "fly.dev", "github.io", "gitlab.io", "herokuapp.com", "jfrog.io", "netlify.app", "ngrok.app", "ngrok.io",
    "ngrok-free.app", "onrender.com", "pages.dev", "pkg.dev", "quay.dev", "run.app", "scw.cloud",
    "trafficmanager.net", "vercel.app", "web.app", "windows.net", "workers.dev",
)
# fmt: on
"""Where neighbours are strangers: anybody can be ``<name>.<suffix>``. Not the Public Suffix List, which is 15 000 lines
and ages: a suffix missing here only matters to a registry that names a malicious realm under its own suffix."""
_SECOND_LEVELS = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})


def same_site(host: str, other: str) -> bool:
    """Whether two host names are of one owner: equal, parent and child, or siblings (``registry-1.docker.io`` and
    ``auth.docker.io``) under a domain that is not shared among strangers. An address is of one site with itself."""
    if host == other:
        return True
    if _address(host) is not None or _address(other) is not None:
        return False
    site = _site(host)
    return bool(site) and site == _site(other)


def _site(host: str) -> str:
    labels = host.split(".")
    suffix = next((suffix for suffix in _SHARED_SUFFIXES if host.endswith("." + suffix)), "")
    if suffix:
        # Regions and services have labels too (<account>.dkr.ecr.<region>.amazonaws.com): nothing shorter is one owner.
        return host
    countries = len(labels) >= 3 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVELS  # noqa: PLR2004
    wanted = 3 if countries else 2
    return ".".join(labels[-wanted:]) if len(labels) >= wanted else ""
