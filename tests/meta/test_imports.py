"""Which modules each kind of process may load: what start-up costs is decided here, and no time is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.images import build
from fakes.registry import BearerAuth, FakeRegistry
from fakes.source import loaded_by

HTTP = {"urllib3", "http.client", "ssl"}
UNUSUAL = {"requests", "tenacity", "sqlite_utils", "numpy", "subprocess", "asyncio", "rich", "tarfile"}
"""For a token server, a failure, an older database, a credential helper: none of which is met here."""
WORK = {"imgpull.fetch", "imgpull.unpack", "imgpull.stages", "imgpull.registry.client", "isal"}


def command(*arguments: object) -> str:
    return f"from imgpull.cli import main; assert main({[str(argument) for argument in arguments]}) == 0"


@pytest.mark.parametrize("verb", ["--version", "images"])
def test_a_verb_that_asks_nobody(tmp_path: Path, verb: str) -> None:
    """``images`` makes a store, too."""
    loaded = loaded_by(command("--store", tmp_path, verb))
    assert loaded & (HTTP | UNUSUAL | WORK | {"imgpull.puller", "imgpull.cli.pull"}) == set()


def test_a_pull_into_an_empty_store_and_one_that_finds_it_there(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = registry.add(build([{"a": b"a"}]))
    pull = ("--store", tmp_path, "-q", "pull", "--policy", "missing", reference)
    loaded = loaded_by(command(*pull))
    assert loaded >= {"urllib3", *WORK - {"isal"}}
    assert loaded & (UNUSUAL | {"imgpull.cli.local", "imgpull.cli.remote"}) == set()
    assert loaded_by(command(*pull)) & (HTTP | UNUSUAL | WORK) == set()


def test_a_token_is_what_requests_is_for(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.auth = BearerAuth()
    reference = registry.add(build([{"a": b"a"}]))
    assert "requests" in loaded_by(command("--store", tmp_path, "-q", "pull", reference))
