"""docker's config.json: what is found, under which name, and what is not told."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from imgpull.errors import UnauthorizedError
from imgpull.registry.credentials import HUB_SERVER, Anonymous, Credential, DockerConfig


def encoded(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def config(home: Path, **sections: Any) -> DockerConfig:
    (home / "config.json").write_text(json.dumps(sections))
    return DockerConfig()


def helper(home: Path, name: str, body: str) -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def saying(username: str, secret: str) -> str:
    answer = json.dumps({"Username": username, "Secret": secret})
    return f"""read server; echo "$1 $server" >> "$DOCKER_CONFIG/log"; echo '{answer}'"""


def test_no_file_no_credentials(docker_home: Path) -> None:
    assert DockerConfig().credential_for("ghcr.io") is None
    assert DockerConfig(docker_home / "config.json" / "below").credential_for("ghcr.io") is None


def test_the_file_is_looked_for_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DockerConfig().path == tmp_path / ".docker" / "config.json"
    monkeypatch.setenv("DOCKER_CONFIG", "/elsewhere")
    assert DockerConfig().path == Path("/elsewhere/config.json")
    assert DockerConfig("/given.json").path == Path("/given.json")


@pytest.mark.parametrize(
    ("filed", "asked", "found"),
    [
        ("ghcr.io", "ghcr.io", True),
        ("https://ghcr.io", "ghcr.io", True),
        ("https://ghcr.io/v2/", "ghcr.io", True),
        ("http://localhost:5000/v1/", "localhost:5000", True),
        (HUB_SERVER, "docker.io", True),
        ("docker.io", "docker.io", True),
        ("index.docker.io", "docker.io", True),
        ("registry-1.docker.io", "docker.io", True),
        ("https://index.docker.io/v1", "docker.io", True),
        ("ghcr.io", "ghcr.io:443", False),
        ("localhost:5000", "localhost", False),
        ("ghcr.io/acme", "ghcr.io", False),
        ("evilghcr.io", "ghcr.io", False),
        ("ghcr.io.evil.example", "ghcr.io", False),
        ("ghcr.io", "evil-ghcr.io", False),
        ("io", "ghcr.io", False),
        (HUB_SERVER, "ghcr.io", False),
        ("", "ghcr.io", False),
    ],
)
def test_names_are_matched_exactly(docker_home: Path, filed: str, asked: str, found: bool) -> None:
    credentials = config(docker_home, auths={filed: encoded("me", "secret")})
    assert credentials.credential_for(asked) == (Credential("me", "secret") if found else None)


@pytest.mark.parametrize(
    ("entry", "credential"),
    [
        (encoded("me", "pass:word"), Credential("me", "pass:word")),
        (encoded("me", "padded\0\0"), Credential("me", "padded")),
        ({"username": "me", "password": "plain"}, Credential("me", "plain")),
        ({"identitytoken": "refresh"}, Credential(identity_token="refresh")),
        ({"registrytoken": "bearer"}, Credential(registry_token="bearer")),
        ({**encoded("<token>", ""), "identitytoken": "r"}, Credential("<token>", "", "r")),
        ({}, None),
        ({"auth": ""}, None),
        ({"auth": 5}, None),
        ("text", None),
        (None, None),
    ],
)
def test_entries(docker_home: Path, entry: Any, credential: Credential | None) -> None:
    assert config(docker_home, auths={"ghcr.io": entry}).credential_for("ghcr.io") == credential


def test_an_empty_entry_does_not_hide_a_full_one(docker_home: Path) -> None:
    credentials = config(docker_home, auths={"ghcr.io": {}, "https://ghcr.io/v2/": encoded("me", "secret")})
    assert credentials.credential_for("ghcr.io") == Credential("me", "secret")


@pytest.mark.parametrize(
    "raw",
    [b"{canary", b'"canary"', b"[" * 100_000, b"\xff\xfecanary", b'{"auths":{"ghcr.io":{"auth":"canary!"}}}',
     b'{"auths":{"ghcr.io":{"auth":"Y2FuYXJ5"}}}'],
)  # fmt: skip
def test_a_broken_file_is_an_error_that_quotes_nothing(docker_home: Path, raw: bytes) -> None:
    (docker_home / "config.json").write_bytes(raw)
    with pytest.raises(UnauthorizedError, match=r"config\.json: ") as caught:
        DockerConfig().credential_for("ghcr.io")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("sections", [{"auths": []}, {"auths": None}, {"credHelpers": "x"}, {"credsStore": 5}, {}])
def test_sections_of_a_wrong_kind_are_empty(docker_home: Path, sections: dict[str, Any]) -> None:
    assert config(docker_home, **sections).credential_for("ghcr.io") is None


def test_an_empty_file_is_an_empty_configuration(docker_home: Path) -> None:
    (docker_home / "config.json").write_bytes(b"")
    assert DockerConfig().credential_for("ghcr.io") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_an_error(docker_home: Path) -> None:
    credentials = config(docker_home)
    (docker_home / "config.json").chmod(0)
    with pytest.raises(UnauthorizedError, match="permissions"):
        credentials.credential_for("ghcr.io")


def test_a_directory_in_the_files_place_is_an_error(docker_home: Path) -> None:
    (docker_home / "config.json").mkdir()
    with pytest.raises(UnauthorizedError, match="can't be read"):
        DockerConfig().credential_for("ghcr.io")


def test_dockers_order(docker_home: Path) -> None:
    helper(docker_home, "own", saying("own", "1"))
    helper(docker_home, "general", saying("general", "2"))
    auths = {"ghcr.io": encoded("file", "3"), "quay.io": encoded("file", "4")}
    both = config(docker_home, auths=auths, credHelpers={"ghcr.io": "own"}, credsStore="general")
    assert both.credential_for("ghcr.io") == Credential("own", "1")
    assert both.credential_for("quay.io") == Credential("general", "2")
    own = config(docker_home, auths=auths, credHelpers={"ghcr.io": "own"})
    assert own.credential_for("ghcr.io") == Credential("own", "1")
    assert own.credential_for("quay.io") == Credential("file", "4")


def test_a_login_is_seen_at_once(docker_home: Path) -> None:
    credentials = config(docker_home, auths={})
    assert credentials.credential_for("ghcr.io") is None
    config(docker_home, auths={"ghcr.io": encoded("me", "secret")})
    assert credentials.credential_for("ghcr.io") == Credential("me", "secret")


def test_docker_hub_is_named_to_helpers_as_docker_names_it(docker_home: Path) -> None:
    helper(docker_home, "general", saying("me", "secret"))
    credentials = config(docker_home, credsStore="general")
    assert credentials.credential_for("docker.io") == Credential("me", "secret")
    assert credentials.credential_for("localhost:5000") == Credential("me", "secret")
    assert (docker_home / "log").read_text().splitlines() == [f"get {HUB_SERVER}", "get localhost:5000"]


def test_a_helper_is_not_matched_by_a_similar_name(docker_home: Path) -> None:
    helper(docker_home, "own", saying("me", "secret"))
    credentials = config(docker_home, credHelpers={"azurecr.io": "own"})
    assert credentials.credential_for("evil.azurecr.io.attacker.example") is None
    assert credentials.credential_for("evil.azurecr.io") is None


def test_nobody_is_anonymous() -> None:
    assert Anonymous().credential_for("ghcr.io") is None


def test_no_secret_in_a_repr() -> None:
    credential = Credential("canary-user", "canary", "canary", "canary", problem="why")
    assert repr(credential) == "Credential(problem='why')"
