"""Which hosts serve a registry, and in which scheme."""

from __future__ import annotations

import pytest

from imgpull.errors import InvalidReferenceError
from imgpull.registry.hosts import DefaultHosts, Host, is_loopback, split_port


# containerd core/remotes/docker TestMatchLocalhost, and this project's own rows after it.
@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("", False),
        ("127.1.1.1", True),
        ("127.0.0.1", True),
        ("127.256.0.1", False),
        ("127.23.34.52", True),
        ("127.0.0.1:5000", True),
        ("registry.org", False),
        ("126.example.com", False),
        ("localhost", True),
        ("localhost:5000", True),
        ("[127:0:0:1]", False),
        ("[::1]", True),
        ("[::1]:", False),
        ("127.0.1.1:", False),
        ("[::1]:5000", True),
        ("LOCALHOST:5000", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.evil.example", False),
        ("[::ffff:127.0.0.1]:5000", False),
        ("0.0.0.0:5000", False),
        ("127.0.0.1:5000@evil.example", False),
    ],
)
def test_loopback_is_matched_exactly(name: str, loopback: bool) -> None:
    assert is_loopback(name) is loopback
    assert DefaultHosts().hosts_for(name)[0].scheme == ("http" if loopback else "https")


def test_docker_hub_lives_elsewhere_than_its_name() -> None:
    (host,) = DefaultHosts().hosts_for("docker.io")
    assert host.base_url == "https://registry-1.docker.io/v2"
    assert host.credential_name == "docker.io"


def test_plain_http_is_for_the_named_registry_alone() -> None:
    hosts = DefaultHosts(plain_http=["Registry.Example:5000"])
    assert hosts.hosts_for("registry.example:5000")[0].base_url == "http://registry.example:5000/v2"
    assert hosts.hosts_for("registry.example")[0].scheme == "https"
    assert hosts.hosts_for("sub.registry.example:5000")[0].scheme == "https"


def test_plain_http_takes_one_name_for_a_list() -> None:
    assert DefaultHosts("registry.example").plain_http == {"registry.example"}


@pytest.mark.parametrize("name", ["http://registry.example", "registry.example/repo", "a b", "", "user@host"])
def test_plain_http_refuses_what_is_no_host(name: str) -> None:
    with pytest.raises(InvalidReferenceError, match="plain_http"):
        DefaultHosts([name])


def test_a_mirror_has_credentials_of_its_own() -> None:
    mirror = Host("docker.io", "https", "mirror.example:8443", namespace="docker.io")
    assert mirror.credential_name == "mirror.example:8443"


@pytest.mark.parametrize(
    ("address", "parts"),
    [("a.example", ("a.example", None)), ("[::1]:50", ("[::1]", 50)), ("a:b", ("", None)), ("::1", ("", None))],
)
def test_split_port(address: str, parts: tuple[str, int | None]) -> None:
    assert split_port(address) == parts
