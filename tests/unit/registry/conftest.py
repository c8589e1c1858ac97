"""A registry client whose clock, patience and chance belong to the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fakes import images
from fakes.registry import FakeRegistry
from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.registry import Anonymous, Credential, Credentials, DefaultHosts, Hosts, Registry, Retry
from imgpull.registry.auth import Authorizer
from imgpull.registry.client import RegistryClient
from imgpull.registry.exchange import Exchange
from imgpull.registry.registry import LazyClient
from imgpull.registry.transport import Transport


@dataclass
class Clock:
    """Time that passes only when somebody sleeps, or the test says so."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float, cancel: Cancellation | None = None) -> None:
        if cancel is not None:
            cancel.raise_if_cancelled()
        with self.lock:
            self.slept.append(seconds)
            self.now += seconds


@dataclass
class Known:
    """Credentials from a dictionary, and the names they were asked for by."""

    by_name: dict[str, Credential]
    asked: list[str] = field(default_factory=list)

    def credential_for(self, registry: str) -> Credential | None:
        self.asked.append(registry)
        return self.by_name.get(registry)


Connect = Callable[..., Registry]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known() -> type[Known]:
    return Known


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport()
    yield transport
    transport.close()


@pytest.fixture
def connect(clock: Clock) -> Iterator[Connect]:
    """A Registry as ``imgpull.registry.connect`` makes it, on the test's clock; chance draws the longest waits."""
    made: list[Registry] = []

    def make(
        credentials: Credentials | None = None,
        hosts: Hosts | None = None,
        transport: Transport | None = None,
        limits: Limits | None = None,
        attempts: int = 5,
    ) -> Registry:
        limits = limits or Limits()
        transport = transport or Transport()
        authorizer = Authorizer(transport, credentials or Anonymous(), limits, clock=clock)
        retry = Retry(attempts=attempts, clock=clock, random=lambda: 1.0, sleep=clock.sleep)
        client = RegistryClient(hosts or DefaultHosts(), Exchange(transport, authorizer, limits), retry, limits)
        made.append(Registry(LazyClient(lambda: client), limits))
        return made[-1]

    yield make
    for registry in made:
        registry.close()


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    """Another host: a CDN, a mirror, a thief."""
    with FakeRegistry("127.0.0.2") as registry:
        yield registry


@pytest.fixture
def image() -> images.Image:
    return images.build([{"a": b"one"}, {"b": images.random_bytes(200_000)}])


@pytest.fixture
def docker_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for docker's config.json, and a PATH that begins with ``bin`` in it, for credential helpers."""
    home = tmp_path / "docker"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return home
