"""The fake registry keeps its own promises: a raw socket sees what a script says, and closing leaves nothing."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import closing

import pytest

from fakes import images
from fakes.registry import (
    CLOSE,
    RESET,
    FakeRegistry,
    Gate,
    Reply,
    corrupted,
    held,
    ignoring_range,
    reset,
    stalled,
    truncated,
)
from fakes.threads import Worker, until

DATA = images.random_bytes(10_000)


def get(registry: FakeRegistry, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection(registry.address, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


@pytest.fixture
def path() -> str:
    return f"/v2/a/b/blobs/{images.sha256(DATA)}"


def test_it_serves_an_image() -> None:
    image = images.build([{"a": b"1", "d/": None, "l": images.Link("a")}])
    with FakeRegistry() as registry:
        assert registry.add(image, "a/b", "v1") == f"{registry.address}/a/b:v1"
        for target in ("v1", image.digest):
            status, headers, body = get(registry, f"/v2/a/b/manifests/{target}")
            assert (status, body) == (200, image.raw)
            assert headers["docker-content-digest"] == image.digest
            assert headers["content-type"] == image.media_type
        for digest, blob in image.blobs.items():
            assert get(registry, f"/v2/a/b/blobs/{digest}")[2] == blob
        assert json.loads(get(registry, "/v2/a/b/tags/list")[2]) == {"name": "a/b", "tags": ["v1"]}
        assert get(registry, "/v2/a/b/manifests/none")[0] == 404
        assert get(registry, "/v2/a/b/manifests/v1", "HEAD")[2] == b""
        assert registry.count("GET", "/manifests/") == 3
        assert registry.seen("HEAD")[0].bytes_sent == 0


def test_ranges(path: str) -> None:
    with FakeRegistry() as registry:
        registry.add_blob(DATA)
        status, headers, body = get(registry, path, Range="bytes=100-")
        assert (status, body, headers["content-range"]) == (206, DATA[100:], "bytes 100-9999/10000")
        assert get(registry, path, Range="bytes=100-199")[2] == DATA[100:200]
        assert get(registry, path, Range="bytes=10000-")[0] == 416
        registry.script("GET", "/blobs/", ignoring_range)
        assert get(registry, path, Range="bytes=100-")[::2] == (200, DATA)


def test_scripts_are_used_up_in_order() -> None:
    with FakeRegistry() as registry:
        registry.script("GET", "/v2/", Reply(500), Reply(501))
        registry.script("*", "/v2/", Reply(502))
        registry.always("GET", "/never", Reply(418))
        assert [get(registry, "/v2/")[0] for _ in range(4)] == [500, 501, 502, 200]
        assert [get(registry, "/never")[0] for _ in range(2)] == [418, 418]


@pytest.mark.parametrize(("how", "error"), [(truncated, http.client.IncompleteRead), (reset, ConnectionResetError)])
def test_cuts(path: str, how, error: type[Exception]) -> None:  # type: ignore[no-untyped-def]
    with FakeRegistry() as registry:
        registry.add_blob(DATA)
        registry.script("GET", "/blobs/", how(100))
        with pytest.raises(error):
            get(registry, path)
        until(lambda: registry.requests[0].bytes_sent == 100, "the log to be written")


@pytest.mark.parametrize("ending", [RESET, CLOSE])
def test_no_answer_at_all(ending: object) -> None:
    with FakeRegistry() as registry:
        registry.script("GET", "", Reply(before=(ending,)))  # type: ignore[arg-type]
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            get(registry, "/v2/")
        assert registry.requests[0].status == 0


def test_one_bit_is_wrong(path: str) -> None:
    with FakeRegistry() as registry:
        registry.add_blob(DATA)
        registry.script("GET", "/blobs/", corrupted(5))
        body = get(registry, path)[2]
        assert [n for n, (a, b) in enumerate(zip(body, DATA, strict=True)) if a != b] == [5]


@pytest.mark.parametrize(("answer", "before"), [(held, b""), (lambda gate: stalled(gate, 100), DATA[:100])])
def test_gates(path: str, answer, before: bytes) -> None:  # type: ignore[no-untyped-def]
    gate = Gate()
    with FakeRegistry() as registry, socket.create_connection(registry.address.split(":")) as client:  # type: ignore[arg-type]
        registry.add_blob(DATA)
        registry.script("GET", "/blobs/", answer(gate))
        client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        gate.wait_reached()
        sent = client.recv(100_000) if before else b""
        while before and not sent.endswith(before):
            sent += client.recv(100_000)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.setblocking(True)
        gate.open()
        assert client.recv(1)


def test_closing_opens_gates_and_joins_threads(path: str) -> None:
    before = set(threading.enumerate())
    registry = FakeRegistry().start()
    registry.add_blob(DATA)
    gate = registry.block("/blobs/", at=5)
    worker = Worker(lambda: get(registry, path))
    worker.start()
    gate.wait_reached()
    idle = socket.create_connection(registry.address.split(":"))  # type: ignore[arg-type]
    until(lambda: registry.open_connections == 2, "both connections")
    names = {thread.name for thread in threading.enumerate() if thread not in before and thread is not worker}
    assert not [name for name in names if name.startswith("imgpull")]
    registry.close()
    assert worker.done().error is not None
    idle.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(registry.address.split(":"))  # type: ignore[arg-type]


def test_many_connections_at_once(path: str) -> None:
    with FakeRegistry() as registry:
        registry.add_blob(DATA)
        gate = registry.block("/blobs/", at=0, times=100)
        workers = [Worker(lambda: get(registry, path)) for _ in range(100)]
        for worker in workers:
            worker.start()
        until(lambda: registry.count("GET", "/blobs/") == 100, "a hundred requests")
        assert registry.open_connections == 100
        gate.open()
        assert all(worker.done().result[2] == DATA for worker in workers)  # type: ignore[index]


@pytest.mark.parametrize("host", ["127.0.0.2", "127.0.0.9"])
def test_other_loopback_hosts(host: str) -> None:
    with FakeRegistry(host) as registry:
        assert registry.address.startswith(f"{host}:")
        assert get(registry, "/v2/")[0] == 200
