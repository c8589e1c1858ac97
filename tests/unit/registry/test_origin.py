"""Where registries may not send us, and how a URL appears in a message."""

from __future__ import annotations

import pytest

from imgpull.errors import InsecureTransportError
from imgpull.registry.origin import check_target, origin, redacted, same_site

PUBLIC = "https://registry.example/v2"
LOOPBACK = "http://127.0.0.1:5000/v2"
PLAIN = "http://registry.example/v2"


# go-containerregistry's tables for redirects (GC-3), foreign URLs (GC-4) and realms (GC-5), as far as they agree.
@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "https://192.168.1.1/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://127.0.0.1:9999/",
        "https://0.0.0.0/",
        "https://[fd00:ec2::254]/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "http://cdn.example/",
        "http://registry.example/",
        "ftp://cdn.example/",
        "file:///etc/passwd",
        "//cdn.example/",
        "127.0.0.1:8080",
        "https://user:pass@cdn.example/",
        "https://cdn.example/\r\nX-Evil: 1",
        "https://cdn.example/a b",
        "https://cdn.example\\@evil.example/",
        "https://cdn.exämple/",
        "https://[",
        "https://cdn.example:port/",
        "https:///path",
        "",
        "https://cdn.example/" + "a" * 20_000,
    ],
)
def test_a_public_registry_may_not_send_us_there(target: str) -> None:
    with pytest.raises(InsecureTransportError) as caught:
        check_target(PUBLIC, target, "its redirect to")
    assert "\n" not in str(caught.value)
    assert caught.value.registry == "registry.example"


@pytest.mark.parametrize(
    ("sender", "target"),
    [
        (PUBLIC, "https://8.8.8.8/"),
        (PUBLIC, "https://cdn.example/x?signature=1"),
        (PUBLIC, "https://registry.example:443/x"),
        (LOOPBACK, "http://127.0.0.1:5000/token"),
        (LOOPBACK, "http://127.0.0.2:1234/blob"),
        (LOOPBACK, "http://localhost:5001/auth"),
        (LOOPBACK, "https://cdn.example/x"),
        ("http://[::1]:5000/v2", "http://[::1]:5000/token"),
        (PLAIN, "http://10.0.0.5:9000/bucket"),
        (PLAIN, "http://cdn.example/x"),
        ("https://10.0.0.1/v2", "https://10.0.0.1/token"),
    ],
)
def test_these_are_where_registries_do_send_us(sender: str, target: str) -> None:
    check_target(sender, target, "its redirect to")


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://127.0.0.1:22/", "http://0.0.0.0/"])
def test_nor_may_a_plain_one(target: str) -> None:
    with pytest.raises(InsecureTransportError):
        check_target(PLAIN, target, "its redirect to")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://A.example/x", ("https", "a.example", 443)),
        ("http://a.example./x", ("http", "a.example", 80)),
        ("http://[::1]:5000/", ("http", "::1", 5000)),
    ],
)
def test_origin(url: str, found: tuple[str, str, int]) -> None:
    assert origin(url) == found


def test_a_url_in_a_message_has_no_secrets() -> None:
    shown = redacted("https://user:secret@cdn.example/layer?X-Signature=secret#secret")
    assert shown == "https://cdn.example/layer"
    assert redacted("https://[secret") == "(a malformed URL)"


@pytest.mark.parametrize(
    ("host", "other", "same"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("gitlab.example.co.uk", "registry.example.co.uk", True),
        ("a.co.uk", "b.co.uk", False),
        ("acme.azurecr.io", "evil.azurecr.io", False),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "2.dkr.ecr.eu-west-1.amazonaws.com", False),
        ("ghcr.io", "evil.example", False),
        ("docker.io", "evildocker.io", False),
        ("registry.example", "registry.example.evil.net", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.1", "9.0.0.1", False),
        ("registry", "auth", False),
        ("localhost", "localhost", True),
    ],
)
def test_same_site(host: str, other: str, same: bool) -> None:
    assert same_site(host, other) is same
    assert same_site(other, host) is same
