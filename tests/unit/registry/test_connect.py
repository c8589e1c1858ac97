"""connect(): one client for all who have the same policy, and nothing left when the last has gone."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import images
from fakes.registry import BearerAuth, FakeRegistry
from fakes.threads import Worker, until
from imgpull.errors import InvalidReferenceError
from imgpull.limits import Limits
from imgpull.reference import Reference
from imgpull.registry import Anonymous, DefaultHosts, Registry, connect


@pytest.fixture(autouse=True)
def no_configuration(docker_home: Path) -> None:
    """What is in the user's own config.json is not part of these tests."""


def test_the_same_policy_shares_connections_and_tokens(registry: FakeRegistry, image: images.Image) -> None:
    registry.auth = BearerAuth()
    reference = Reference.parse(registry.add(image))
    clients = [connect() for _ in range(4)]
    for client in clients:
        client.resolve(reference)
    assert registry.tokens == 1
    assert registry.connections == 1
    assert len(set(clients)) == 1
    for client in clients:
        client.close()
    until(lambda: registry.open_connections == 0, "the connection to close")


def test_the_last_one_closes(registry: FakeRegistry, image: images.Image) -> None:
    reference = Reference.parse(registry.add(image))
    first, second = connect(), connect()
    first.resolve(reference)
    first.close()
    first.close()
    assert registry.open_connections == 1
    second.resolve(reference)
    assert registry.connections == 1
    del second
    until(lambda: gc.collect() is not None and registry.open_connections == 0, "the connection to close")


@pytest.mark.parametrize(
    "options",
    [
        {"plain_http": ["registry.example"]},
        {"limits": Limits(manifest_bytes=5)},
        {"credentials": Anonymous()},
        {"hosts": DefaultHosts()},
    ],
)
def test_another_policy_shares_nothing(options: dict[str, object]) -> None:
    plain, other = connect(), connect(**options)  # type: ignore[arg-type]
    assert plain != other
    plain.close()
    other.close()


def test_own_hosts_and_credentials_are_never_shared() -> None:
    credentials = Anonymous()
    first, second = connect(credentials=credentials), connect(credentials=credentials)
    assert first != second
    first.close()
    second.close()


def test_plain_http_is_checked_at_once() -> None:
    with pytest.raises(InvalidReferenceError):
        connect(plain_http=["http://registry.example"])


def test_terms_are_equal_where_the_answer_would_be(monkeypatch: pytest.MonkeyPatch, docker_home: Path) -> None:
    reference = Reference.parse("registry.example/a")
    seen = set()

    def look(**options: object) -> str | None:
        registry = connect(**options)  # type: ignore[arg-type]
        terms = registry.terms(reference)
        registry.close()
        return terms

    seen = {look(), look(plain_http=["elsewhere.example"]), look(limits=Limits(manifest_bytes=5))}
    assert len(seen) == 1
    seen.add(look(plain_http=["registry.example"]))
    (docker_home / "config.json").write_text("{}")
    seen.add(look())
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    seen.add(look())
    assert len(seen) == 4
    assert look(credentials=Anonymous()) is look(hosts=DefaultHosts()) is None


def test_threads_that_connect_at_once_get_the_same() -> None:
    workers = [Worker(connect) for _ in range(16)]
    for worker in workers:
        worker.start()
    clients = {worker.done().result for worker in workers}
    assert len(clients) == 1
    for worker in workers:
        assert isinstance(worker.result, Registry)
        worker.result.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_connects_on_its_own(registry: FakeRegistry, image: images.Image) -> None:
    reference = Reference.parse(registry.add(image))
    client = connect()
    client.resolve(reference)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if connect().resolve(reference).digest == image.digest else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    client.resolve(reference)
    assert {request.connection for request in registry.requests} == {1, 2}
    client.close()


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = "{'requests', 'urllib3', 'tenacity', 'ssl', 'subprocess', 'concurrent.futures', 'email'}"
    code = f"import sys, imgpull.registry as r; r.connect(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
