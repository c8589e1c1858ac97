"""Vectors: distribution/reference reference_test.go and normalize_test.go."""

from __future__ import annotations

import pickle

import pytest

from imgpull.errors import InvalidImageError, InvalidReferenceError
from imgpull.oci import Digest
from imgpull.reference import Reference

F64 = "sha256:" + "f" * 64
F128 = "sha512:" + "f" * 128
LONG = "a/" * 127 + "a"
HUB = "docker.io"

# TestReferenceParse with what normalisation makes of each: text, domain, path, tag, digest
PARSED = [
    ("test_com", HUB, "library/test_com", "latest", None),
    ("test.com:tag", HUB, "library/test.com", "tag", None),
    ("test.com:5000", HUB, "library/test.com", "5000", None),
    ("test.com/repo:tag", "test.com", "repo", "tag", None),
    ("test:5000/repo", "test:5000", "repo", "latest", None),
    ("test:5000/repo:tag", "test:5000", "repo", "tag", None),
    (f"test:5000/repo@{F64}", "test:5000", "repo", None, F64),
    (f"test:5000/repo:tag@{F64}", "test:5000", "repo", "tag", F64),
    ("lowercase:Uppercase", HUB, "library/lowercase", "Uppercase", None),
    (f"{LONG}:tag-puts-this-over-max", HUB, LONG, "tag-puts-this-over-max", None),
    ("sub-dom1.foo.com/bar/baz/quux", "sub-dom1.foo.com", "bar/baz/quux", "latest", None),
    ("sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com", "bar/baz/quux", "some-long-tag", None),
    (
        "b.gcr.io/test.example.com/my-app:test.example.com",
        "b.gcr.io",
        "test.example.com/my-app",
        "test.example.com",
        None,
    ),
    ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com", "myimage", "xn--n3h.com", None),
    (f"xn--7o8h.com/myimage:xn--7o8h.com@{F128}", "xn--7o8h.com", "myimage", "xn--7o8h.com", F128),
    ("foo_bar.com:8080", HUB, "library/foo_bar.com", "8080", None),
    ("foo/foo_bar.com:8080", HUB, "foo/foo_bar.com", "8080", None),
    ("192.168.1.1", HUB, "library/192.168.1.1", "latest", None),
    ("192.168.1.1:tag", HUB, "library/192.168.1.1", "tag", None),
    ("192.168.1.1:5000", HUB, "library/192.168.1.1", "5000", None),
    ("192.168.1.1/repo", "192.168.1.1", "repo", "latest", None),
    ("192.168.1.1:5000/repo", "192.168.1.1:5000", "repo", "latest", None),
    ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050", None),
    ("[2001:db8::1]/repo", "[2001:db8::1]", "repo", "latest", None),
    ("[2001:db8:1:2:3:4:5:6]/repo:tag", "[2001:db8:1:2:3:4:5:6]", "repo", "tag", None),
    ("[2001:db8::1]:5000/repo", "[2001:db8::1]:5000", "repo", "latest", None),
    ("[2001:db8::1]:5000/repo:tag", "[2001:db8::1]:5000", "repo", "tag", None),
    (f"[2001:db8::1]:5000/repo@{F64}", "[2001:db8::1]:5000", "repo", None, F64),
    (f"[2001:db8::1]:5000/repo:tag@{F64}", "[2001:db8::1]:5000", "repo", "tag", F64),
    ("[2001:db8::]:5000/repo", "[2001:db8::]:5000", "repo", "latest", None),
    ("[::1]:5000/repo", "[::1]:5000", "repo", "latest", None),
    # TestSplitHostname, TestNormalizedSplitHostname, TestParseNamed, TestWithTag
    ("test.com/foo", "test.com", "foo", "latest", None),
    ("test_com/foo", HUB, "test_com/foo", "latest", None),
    ("docker/migrator", HUB, "docker/migrator", "latest", None),
    ("test:8080/foo", "test:8080", "foo", "latest", None),
    ("test.com:8080/foo", "test.com:8080", "foo", "latest", None),
    ("test-com:8080/foo", "test-com:8080", "foo", "latest", None),
    ("foo", HUB, "library/foo", "latest", None),
    ("xn--n3h.com/foo", "xn--n3h.com", "foo", "latest", None),
    ("xn--n3h.com:18080/foo", "xn--n3h.com:18080", "foo", "latest", None),
    ("docker.io/foo", HUB, "library/foo", "latest", None),
    ("docker.io/library/foo", HUB, "library/foo", "latest", None),
    ("docker.io/library/foo/bar", HUB, "library/foo/bar", "latest", None),
    ("test.com:8000/foo:TAG5", "test.com:8000", "foo", "TAG5", None),
    ("localhost/foo", "localhost", "foo", "latest", None),
    ("localhost:5000/foo", "localhost:5000", "foo", "latest", None),
    ("localhost", HUB, "library/localhost", "latest", None),
    # TestParseAnyReference
    ("dbcc1", HUB, "library/dbcc1", "latest", None),
    ("a" * 63, HUB, "library/" + "a" * 63, "latest", None),
    ("redis:latest", HUB, "library/redis", "latest", None),
    (f"redis@{F64}", HUB, "library/redis", None, F64),
    (f"dmcgowan/myapp@{F64}", HUB, "dmcgowan/myapp", None, F64),
    ("a:" + "t" * 128, HUB, "library/a", "t" * 128, None),
    ("a:_x.-", HUB, "library/a", "_x.-", None),
    ("h.io:65535/a", "h.io:65535", "a", "latest", None),
]


@pytest.mark.parametrize(("text", "domain", "path", "tag", "digest"), PARSED, ids=[case[0][:50] for case in PARSED])
def test_parse(text: str, domain: str, path: str, tag: str | None, digest: str | None) -> None:
    read = Reference.parse(text)
    assert (read.domain, read.path, read.tag, read.digest) == (domain, path, tag, digest)
    assert (read.repository, read.name) == (path, f"{domain}/{path}")
    assert read.target == (digest or tag)
    full = f"{domain}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    assert str(read) == full
    assert Reference.parse(full) == read == Reference.parse(read.familiar)
    assert pickle.loads(pickle.dumps(read)) == read and hash(read) == hash(Reference.parse(full))


# TestParseRepositoryInfo: path, familiar name, full name, another spelling, domain
@pytest.mark.parametrize(
    ("path", "familiar", "full", "other", "domain"),
    [
        ("fooo/bar", "fooo/bar", "docker.io/fooo/bar", "index.docker.io/fooo/bar", HUB),
        ("library/ubuntu", "ubuntu", "docker.io/library/ubuntu", "library/ubuntu", HUB),
        ("nonlibrary/ubuntu", "nonlibrary/ubuntu", "docker.io/nonlibrary/ubuntu", "", HUB),
        ("other/library", "other/library", "docker.io/other/library", "", HUB),
        (
            "private/moonbase",
            "127.0.0.1:8000/private/moonbase",
            "127.0.0.1:8000/private/moonbase",
            "",
            "127.0.0.1:8000",
        ),
        ("privatebase", "127.0.0.1:8000/privatebase", "127.0.0.1:8000/privatebase", "", "127.0.0.1:8000"),
        ("private/moonbase", "example.com/private/moonbase", "example.com/private/moonbase", "", "example.com"),
        ("privatebase", "example.com/privatebase", "example.com/privatebase", "", "example.com"),
        ("privatebasee", "example.com:8000/privatebasee", "example.com:8000/privatebasee", "", "example.com:8000"),
        (
            "library/ubuntu-12.04-base",
            "ubuntu-12.04-base",
            "docker.io/library/ubuntu-12.04-base",
            "index.docker.io/library/ubuntu-12.04-base",
            HUB,
        ),
        ("library/foo", "foo", "docker.io/library/foo", "docker.io/foo", HUB),
        ("library/foo", "foo", "docker.io/library/foo", "index.docker.io/foo", HUB),
        ("library/foo/bar", "library/foo/bar", "docker.io/library/foo/bar", "", HUB),
        ("store/foo/bar", "store/foo/bar", "docker.io/store/foo/bar", "", HUB),
        ("bar", "Foo/bar", "Foo/bar", "", "Foo"),
        ("bar", "FOO/bar", "FOO/bar", "", "FOO"),
    ],
)
def test_familiar_and_full_names(path: str, familiar: str, full: str, other: str, domain: str) -> None:
    for text in filter(None, (familiar, full, other)):
        read = Reference.parse(text)
        assert (read.familiar, str(read)) == (f"{familiar}:latest", f"{full}:latest")
        assert (read.domain, read.path) == (domain, path)


# TestValidateReferenceName and TestValidateRemoteName
VALID_NAMES = """
docker/docker library/debian debian docker.io/docker/docker docker.io/library/debian docker.io/debian
index.docker.io/docker/docker index.docker.io/library/debian index.docker.io/debian 127.0.0.1:5000/docker/docker
127.0.0.1:5000/library/debian 127.0.0.1:5000/debian 192.168.0.1 192.168.0.1:80 192.168.0.1:8/debian
192.168.0.2:25000/debian thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev [fc00::1]:5000/docker
[fc00::1]:5000/docker/docker [fc00:1:2:3:4:5:6:7]:5000/library/debian
docker.io/1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a Docker/docker DOCKER/docker
docker-rules/docker docker---rules/docker doc/docker d/docker jess/t dock__er/docker
"""


@pytest.mark.parametrize("text", VALID_NAMES.split())
def test_valid_names(text: str) -> None:
    assert Reference.parse(text).path in text or Reference.parse(text).path.startswith("library/")


INVALID = [
    # TestReferenceParse
    "",
    ":justtag",
    f"@{F64}",
    "repo@sha256:" + "f" * 34,
    "validname@invaliddigest:" + "f" * 64,
    "Uppercase:tag",
    "test:5000/Uppercase/lowercase:tag",
    "a/" * 128 + "a:tag",
    "aa/asdf$$^/aa",
    "[2001:db8::1]",
    "[2001:db8::1]:5000",
    "[2001:db8::1]:tag",
    "[fe80::1%eth0]:5000/repo",
    "[fe80::1%@invalidzone]:5000/repo",
    # TestValidateReferenceName and TestValidateRemoteName
    "https://github.com/docker/docker",
    "docker/Docker",
    "-docker",
    "-docker/docker",
    "-docker.io/docker/docker",
    "docker///docker",
    "docker.io/docker/Docker",
    "docker.io/docker///docker",
    "[fc00::1]",
    "[fc00::1]:5000",
    "fc00::1:5000/debian",
    "[fe80::1%eth0]:5000/debian",
    "[2001:db8:3:4::192.0.2.33]:5000/debian",
    "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
    "docker-/docker",
    "-docker-/docker",
    "____/____",
    "_docker/_docker",
    "dock..er/docker",
    "dock_.er/docker",
    "dock-.er/docker",
    "docker/",
    "this_is_not_a_valid_namespace_because_its_lenth_is_greater_than_255_" * 4 + "/docker",
    # TestInvalidReferenceComponents
    "busybox:-foo",
    "busybox@foo",
    # reference injection (CVE-2019-16884's kin; a "$" would admit the newline)
    "ubuntu\n",
    "ubuntu:latest\n",
    f"ubuntu@{F64}\n",
    "ubuntu\0",
    "ubu ntu",
    " ubuntu",
    "ubuntu ",
    "host/x\r\nHost: evil",
    "user:pass@host/x",
    "host@evil.com/x",
    "host.com/../x",
    "host.com/%2f/x",
    "host.com/%2e%2e/x",
    "host.com/x?y=1",
    "host.com/x#y",
    "host.com\\x",
    "a..b/x",
    "../x",
    "./x",
    "/x",
    "//x/y",
    "x//y",
    "x/y/",
    "host.com/x:t/../y",
    "host.com/x:a/b",
    "x:",
    "x@",
    "x:t@",
    f"x@{F64}@{F64}",
    f"x@{F64}:t",
    f"x@{F64.upper()}",
    "x@" + F64.replace("sha256", "SHA256"),
    "x:" + "t" * 129,
    "x:.t",
    "x:tag\u0661",
    "\u0430lpine",
    "ex\u0430mple.com/x",
    "\u2603.com/x",
    "host.com:99999/x",
    "host.com:65536/x",
    "host.com:/x",
    "host.com:port/x",
    "foo_bar.com/x",
    "a." * 128 + "com/x",
    "docker://alpine",
    "oci://x",
    "sha256:" + "a" * 64,
    F64,
    "a" * 1_000_000,
    "a-" * 400 + "!",
]


@pytest.mark.parametrize("text", INVALID, ids=lambda text: ascii(text)[:40])
def test_invalid(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        Reference.parse(text)
    message = str(caught.value)
    assert message.startswith("invalid reference ") and message.endswith("write [HOST/]NAME[:TAG][@DIGEST]")
    assert message.isprintable() and len(message) < 400


@pytest.mark.parametrize(
    "text",
    [
        "user:s3cret@host/x",
        "user:s3cret@host",
        "user:s3cret@host:5000",
        "user:s3cret@host:5000/x",
        "user:s3/cret@host/x",
        "user:p@s3cret@host/x",
        "user:p@s3cret:w",
        "https://user:s3cret@host/x",
        "host/x?X-Amz-Signature=s3cret",
        "user:s3cret!@host/x",
        "USER:s3cret@HOST/x",
    ],
)
def test_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        Reference.parse(text)
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("docker/Foo", "must be lower case"),
        ("https://x/y", "leave out the scheme"),
        (F64, "a digest alone names no repository"),
        ("x:", "a tag is 1 to 128"),
        ("x@md5:" + "0" * 32, "what follows '@'"),
        ("x@sha256:00", "64 lower-case hex digits"),
        ("h.io:70000/x", "port must be at most 65535"),
        ("", "empty"),
        ("a" * 1_025, "longer than 1024 characters"),
        ("\u0430lpine", "only printable ASCII"),
        ("ubuntu\n", "only printable ASCII"),
    ],
)
def test_the_message_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidReferenceError, match=reason):
        Reference.parse(text)


def test_tag_and_digest_are_both_kept_and_the_digest_decides() -> None:
    read = Reference.parse(f"busybox:latest@{F64}")
    assert (str(read), read.familiar) == (f"docker.io/library/busybox:latest@{F64}", f"busybox:latest@{F64}")
    assert read.target == F64


def test_with_digest_and_with_tag() -> None:
    read = Reference.parse("redis:7.2")
    pinned = read.with_digest(Digest(F64))
    assert str(pinned) == f"docker.io/library/redis:7.2@{F64}" and pinned.target == F64
    assert str(pinned.with_tag("8")) == "docker.io/library/redis:8"
    with pytest.raises(InvalidReferenceError):
        read.with_tag("-x")


@pytest.mark.parametrize(
    "parts",
    [
        ("", "x", "t", None),
        ("docker.io", "", "t", None),
        ("docker.io", "../x", "t", None),
        ("user:pass@host", "x", "t", None),
        ("docker.io", "x", "", None),
        ("docker.io", "x", "t\n", None),
        ("docker.io", "x", None, None),
        ("docker.io", "X", "t", None),
    ],
)
def test_a_wrong_reference_can_not_be_made_from_parts_either(parts: tuple[str, str, str | None, None]) -> None:
    with pytest.raises(InvalidReferenceError):
        Reference(*parts)


def test_a_digest_part_is_checked() -> None:
    with pytest.raises(InvalidImageError):
        Reference("docker.io", "x", None, "sha256:00")  # type: ignore[arg-type]
