"""imgpull.serve over real sockets: http.client asks, skopeo and umoci judge where they are installed."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from imgpull.errors import InvalidImageError, StoreError
from imgpull.serve import Server

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"


class LayoutMaker:
    """Writes an OCI layout, image by image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []
        self.write_index()

    def write_index(self) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries}
        (self.root / "index.json.new").write_text(json.dumps(index))
        os.replace(self.root / "index.json.new", self.root / "index.json")

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        encoded = sha256(data).hexdigest()
        (self.root / "blobs" / "sha256" / encoded).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(data)}

    def image(self, name: str | None, content: bytes = b"x", architecture: str | None = None) -> dict[str, Any]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("file")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        diff_id = f"sha256:{sha256(buffer.getvalue()).hexdigest()}"
        layer = self.blob(gzip.compress(buffer.getvalue(), mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
        config = {
            "os": "linux",
            "architecture": architecture or "amd64",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
        described = self.blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [layer]}
        entry = self.blob(json.dumps(manifest).encode(), MANIFEST)
        if name is not None:
            entry["annotations"] = {REF_NAME: name}
        if architecture is not None:
            entry["platform"] = {"os": "linux", "architecture": architecture}
        self.entries.append(entry)
        self.write_index()
        return {**entry, "layer": layer, "config": described}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The error code of the distribution specification."""
        error: str = json.loads(self.body)["errors"][0]["code"]
        return error


Ask = Callable[..., Answer]


def endpoint(server: Server) -> tuple[str, int]:
    host, _, port = server.address.rpartition(":")
    return host, int(port)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutMaker:
    (tmp_path / "images").mkdir()
    return LayoutMaker(tmp_path / "images")


@pytest.fixture
def server(layout: LayoutMaker) -> Iterator[Server]:
    with Server(layout.root) as server:
        yield server
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("imgpull-serve")]


@pytest.fixture
def ask(server: Server) -> Iterator[Ask]:
    """Asks over one connection kept alive."""
    connection = http.client.HTTPConnection(server.address, timeout=10)

    def ask(path: str, method: str = "GET", **headers: str) -> Answer:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return Answer(reply.status, reply.headers, reply.read())

    yield ask
    connection.close()


def test_base_says_which_protocol(ask: Ask) -> None:
    answer = ask("/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("docker.io/library/redis:7.2", {"docker.io/library/redis": "7.2", "library/redis": "7.2"}),
        ("ghcr.io/acme/api:v3", {"ghcr.io/acme/api": "v3", "acme/api": "v3"}),
        ("host:5000/redis:demo", {"redis": "demo"}),
        ("localhost/redis:demo", {"localhost/redis": "demo", "redis": "demo"}),
        ("redis:demo", {"redis": "demo"}),
        ("acme/redis:demo", {"acme/redis": "demo"}),
        ("7.2", {"images": "7.2", "7.2": "latest"}),
        (None, {"images": "latest"}),
    ],
)
def test_name_of_an_entry_answers(layout: LayoutMaker, ask: Ask, name: str | None, answers: dict[str, str]) -> None:
    image = layout.image(name)
    assert json.loads(ask("/v2/_catalog").body)["repositories"] == sorted(answers)
    for repository, tag in answers.items():
        assert json.loads(ask(f"/v2/{repository}/tags/list").body) == {"name": repository, "tags": [tag]}
        answer = ask(f"/v2/{repository}/manifests/{tag}")
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, image["digest"])


def test_a_name_with_a_digest_alone_has_no_tag(layout: LayoutMaker, ask: Ask) -> None:
    image = layout.image("acme/api@sha256:" + "0" * 64)
    assert json.loads(ask("/v2/acme/api/tags/list").body)["tags"] == []
    assert ask(f"/v2/acme/api/manifests/{image['digest']}").status == 200


def test_written_name_wins_over_derived_name(layout: LayoutMaker, ask: Ask) -> None:
    layout.image("ghcr.io/library/redis:7.2", b"derived")
    layout.image("docker.io/library/redis:7.2", b"derived too, docker's first")
    docker = layout.entries[-1]
    assert ask("/v2/library/redis/manifests/7.2").headers["Docker-Content-Digest"] == docker["digest"]
    written = layout.image("library/redis:7.2", b"written")
    assert ask("/v2/library/redis/manifests/7.2").headers["Docker-Content-Digest"] == written["digest"]
    assert ask("/v2/docker.io/library/redis/manifests/7.2").headers["Docker-Content-Digest"] == docker["digest"]


def test_unnamed_entries_are_had_by_digest_alone(layout: LayoutMaker, ask: Ask) -> None:
    images = [layout.image(None, content) for content in (b"one", b"two")]
    assert json.loads(ask("/v2/images/tags/list").body)["tags"] == []
    assert [ask(f"/v2/images/manifests/{image['digest']}").status for image in images] == [200, 200]


def test_manifest_by_tag_and_by_digest(layout: LayoutMaker, ask: Ask) -> None:
    image = layout.image("redis:demo")
    by_tag = ask("/v2/redis/manifests/demo")
    by_digest = ask(f"/v2/redis/manifests/{image['digest']}")
    escaped = ask(f"/v2/redis/manifests/{image['digest'].replace(':', '%3A')}")
    assert by_tag.headers["Content-Type"] == MANIFEST
    assert f"sha256:{sha256(by_tag.body).hexdigest()}" == image["digest"]
    assert by_tag.body == by_digest.body == escaped.body
    head = ask("/v2/redis/manifests/demo", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(by_tag.body)))


def test_manifest_below_an_index_has_its_own_media_type(layout: LayoutMaker, ask: Ask) -> None:
    child = layout.image(None)
    descriptor = {name: child[name] for name in ("mediaType", "digest", "size")}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
    layout.entries = [{**layout.blob(json.dumps(index).encode(), INDEX), "annotations": {REF_NAME: "redis:multi"}}]
    layout.write_index()
    assert ask("/v2/redis/manifests/multi").headers["Content-Type"] == INDEX
    assert ask(f"/v2/redis/manifests/{child['digest']}").headers["Content-Type"] == MANIFEST


def test_a_layer_is_no_manifest(layout: LayoutMaker, ask: Ask) -> None:
    image = layout.image("redis:demo")
    answer = ask(f"/v2/redis/manifests/{image['layer']['digest']}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


def test_one_name_with_two_platforms_is_an_index_of_them(layout: LayoutMaker, ask: Ask) -> None:
    images = [layout.image("redis:demo", b"x", architecture) for architecture in ("amd64", "arm64")]
    answer = ask("/v2/redis/manifests/demo")
    assert answer.headers["Content-Type"] == INDEX
    digest = answer.headers["Docker-Content-Digest"]
    assert digest == f"sha256:{sha256(answer.body).hexdigest()}"
    members = {
        entry["platform"]["architecture"]: entry["digest"] for entry in json.loads(answer.body)["manifests"]
    }
    assert members == {"amd64": images[0]["digest"], "arm64": images[1]["digest"]}
    assert ask(f"/v2/redis/manifests/{digest}").body == answer.body


def test_media_type_of_the_index_is_no_way_into_the_headers(layout: LayoutMaker, ask: Ask) -> None:
    layout.image("redis:demo")
    layout.image("redis:other")
    layout.entries[0]["mediaType"] = "application/json\r\nX-Injected: yes"
    layout.write_index()
    answer = ask("/v2/redis/manifests/demo")
    assert (answer.status, answer.headers["X-Injected"]) == (404, None)
    assert ask("/v2/redis/manifests/other").status == 200


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        (None, 200, slice(None)),
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=5-9", 206, slice(5, 10)),
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=90-1000", 206, slice(90, None)),
        ("bytes=-7", 206, slice(93, None)),
        ("bytes=-1000", 206, slice(0, None)),
        ("BYTES=3-4", 206, slice(3, 5)),
        # Ignored, as RFC 9110 section 14.2 allows: malformed, another unit, several.
        ("bytes=9-5", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=a-b", 200, slice(None)),
        ("items=0-5", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
    ],
)
def test_range(layout: LayoutMaker, ask: Ask, asked: str | None, status: int, span: slice) -> None:
    layout.image("redis:demo")
    data = bytes(range(100))
    digest = layout.blob(data, "")["digest"]
    answer = ask(f"/v2/redis/blobs/{digest}", **({"Range": asked} if asked else {}))
    assert (answer.status, answer.body) == (status, data[span])
    first, end, _ = span.indices(100)
    assert answer.headers["Content-Range"] == (f"bytes {first}-{end - 1}/100" if status == 206 else None)
    assert answer.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_range_beyond_the_end(layout: LayoutMaker, ask: Ask, asked: str) -> None:
    layout.image("redis:demo")
    digest = layout.blob(bytes(100), "")["digest"]
    answer = ask(f"/v2/redis/blobs/{digest}", Range=asked)
    assert (answer.status, answer.code, answer.headers["Content-Range"]) == (416, "SIZE_INVALID", "bytes */100")
    assert ask("/v2/").status == 200  # the connection goes on


def test_range_only_if_it_is_still_the_same_blob(layout: LayoutMaker, ask: Ask) -> None:
    layout.image("redis:demo")
    digest = layout.blob(bytes(100), "")["digest"]
    same = ask(f"/v2/redis/blobs/{digest}", Range="bytes=90-", If_Range=f'"{digest}"')
    other = ask(f"/v2/redis/blobs/{digest}", Range="bytes=90-", If_Range='"sha256:other"')
    assert (same.status, other.status, len(other.body)) == (206, 200, 100)


def test_head_of_a_blob_and_an_empty_blob(layout: LayoutMaker, ask: Ask) -> None:
    layout.image("redis:demo")
    full, empty = (layout.blob(data, "")["digest"] for data in (bytes(100), b""))
    head = ask(f"/v2/redis/blobs/{full}", "HEAD", Range="bytes=5-9")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "100", b"")
    nothing = ask(f"/v2/redis/blobs/{empty}")
    assert (nothing.status, nothing.body) == (200, b"")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/redis/manifests/other", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/redis/manifests/sha256:{'0' * 64}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/redis/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        ("/v2/nobody/manifests/demo", 404, "NAME_UNKNOWN"),
        (f"/v2/nobody/blobs/sha256:{'0' * 64}", 404, "NAME_UNKNOWN"),
        ("/v2/nobody/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/Redis/tags/list", 400, "NAME_INVALID"),
        ("/v2/redis%0A/tags/list", 400, "NAME_INVALID"),
        ("/v2/../etc/manifests/demo", 400, "NAME_INVALID"),
        ("/v2/redis/manifests/-demo", 400, "MANIFEST_INVALID"),
        ("/v2/redis/manifests/%2e%2e", 400, "MANIFEST_INVALID"),
        ("/v2/redis/blobs/sha256:..", 400, "DIGEST_INVALID"),
        (f"/v2/redis/blobs/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        (f"/v2/redis/blobs/md5:{'0' * 32}", 400, "DIGEST_INVALID"),
        (f"/v2/redis/manifests/sha256:{'0' * 64}%0A", 400, "DIGEST_INVALID"),
        ("/v2/redis/tags/other", 404, "UNSUPPORTED"),
        ("/v2/redis/referrers/x", 404, "UNSUPPORTED"),
        ("/v2/redis/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("/", 404, "UNSUPPORTED"),
        ("/index.json", 404, "UNSUPPORTED"),
    ],
)
def test_refusals_are_errors_of_the_specification(
    layout: LayoutMaker, ask: Ask, path: str, status: int, code: str
) -> None:
    layout.image("redis:demo")
    answer = ask(path)
    assert (answer.status, answer.code, answer.headers["Content-Type"]) == (status, code, "application/json")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_other_methods_are_refused(layout: LayoutMaker, ask: Ask, method: str) -> None:
    layout.image("redis:demo")
    answer = ask("/v2/redis/blobs/uploads/", method)
    assert (answer.status, answer.code) == (501 if method == "TRACE" else 405, "UNSUPPORTED")
    assert ask("/v2/").status == 200


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_body_is_not_taken_for_a_request(server: Server, method: bytes) -> None:
    smuggled = b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(endpoint(server), timeout=10) as peer:
        head = b"%s /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        peer.sendall(head % (method, len(smuggled)) + smuggled)
        reply = b"".join(iter(lambda: peer.recv(4096), b""))
    assert reply.count(b"HTTP/1.1 ") == 1


def test_malformed_request_gets_an_error_of_the_specification(server: Server) -> None:
    with socket.create_connection(endpoint(server), timeout=10) as peer:
        peer.sendall(b"GET /v2/ with spaces HTTP/1.1\r\n\r\n")
        reply = b"".join(iter(lambda: peer.recv(4096), b""))
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["errors"][0]["code"] == "UNSUPPORTED"


def test_pages_of_tags_follow_the_link(layout: LayoutMaker, ask: Ask) -> None:
    tags = ["1.0", "1.1", "_x", "latest", "v2"]
    for tag in reversed(tags):
        layout.image(f"redis:{tag}")
    pages, path = [], "/v2/redis/tags/list?n=2"
    while path:
        answer = ask(path)
        pages.append(json.loads(answer.body)["tags"])
        link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers["Link"] or "")
        path = link[1] if link else ""
    assert pages == [["1.0", "1.1"], ["_x", "latest"], ["v2"]]
    assert json.loads(ask("/v2/redis/tags/list?n=0").body)["tags"] == []
    assert json.loads(ask("/v2/redis/tags/list?last=_x").body)["tags"] == ["latest", "v2"]


def test_catalog_follows_the_layout(layout: LayoutMaker, ask: Ask) -> None:
    assert json.loads(ask("/v2/_catalog").body)["repositories"] == []
    for name in ("b/one:1", "a/two:1", "c/three:1"):
        layout.image(name)
    assert json.loads(ask("/v2/_catalog").body)["repositories"] == ["a/two", "b/one", "c/three"]
    answer = ask("/v2/_catalog?n=1&last=a/two")
    assert json.loads(answer.body)["repositories"] == ["b/one"]
    assert answer.headers["Link"] == '</v2/_catalog?n=1&last=b%2Fone>; rel="next"'


def test_half_written_index_leaves_the_last_good_one(layout: LayoutMaker, ask: Ask) -> None:
    layout.image("redis:demo")
    assert ask("/v2/redis/manifests/demo").status == 200
    whole = (layout.root / "index.json").read_bytes()
    (layout.root / "index.json").write_bytes(whole[:-20])
    assert ask("/v2/redis/manifests/demo").status == 200
    (layout.root / "index.json").unlink()
    assert ask("/v2/redis/manifests/demo").code == "UNKNOWN"
    layout.write_index()
    assert ask("/v2/redis/manifests/demo").status == 200


@pytest.mark.parametrize("where", ["file", "directory", "fifo"])
def test_links_and_fifos_in_the_layout_lead_nowhere(layout: LayoutMaker, ask: Ask, tmp_path: Path, where: str) -> None:
    layout.image("redis:demo")
    digest = layout.blob(b"secret", "")["digest"]
    path = layout.root / "blobs" / "sha256" / digest.removeprefix("sha256:")
    if where == "directory":
        path.parent.rename(tmp_path / "outside")
        path.parent.symlink_to(tmp_path / "outside")
    else:
        path.rename(tmp_path / "outside")
        if where == "file":
            path.symlink_to(tmp_path / "outside")
        else:
            os.mkfifo(path)
    assert ask(f"/v2/redis/blobs/{digest}").code == "BLOB_UNKNOWN"


def test_blob_cut_short_ends_the_connection(
    layout: LayoutMaker, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.image("redis:demo")
    digest = layout.blob(bytes(1000), "")["digest"]
    path = layout.root / "blobs" / "sha256" / digest.removeprefix("sha256:")
    whole = os.fstat

    def longer(fd: int) -> os.stat_result:
        status = whole(fd)
        if status.st_size != 1000:
            return status
        path.write_bytes(bytes(10))  # it shrinks after its length was looked at
        return status

    monkeypatch.setattr(os, "fstat", longer)
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request("GET", f"/v2/redis/blobs/{digest}")
    with pytest.raises(http.client.IncompleteRead) as caught:
        connection.getresponse().read()
    assert len(caught.value.partial) == 10
    connection.close()


def test_close_ends_transfers_and_idle_connections(layout: LayoutMaker) -> None:
    layout.image("redis:demo")
    path = layout.root / "blobs" / "sha256" / ("f" * 64)
    with path.open("wb") as file:
        file.truncate(1 << 30)  # far more than the sockets' buffers take
    server = Server(layout.root).start()
    idle = http.client.HTTPConnection(server.address, timeout=10)
    idle.request("GET", "/v2/")
    idle.getresponse().read()
    slow = http.client.HTTPConnection(server.address, timeout=10)
    slow.request("GET", f"/v2/redis/blobs/sha256:{'f' * 64}")
    reply = slow.getresponse()
    assert len(reply.read(1)) == 1
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("imgpull-serve-")}
    assert len(names) == 3  # the accepting one and one per connection
    server.close()
    server.close()
    assert not [thread for thread in threading.enumerate() if thread.name in names]
    assert idle.sock is not None and idle.sock.recv(1) == b""
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        reply.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(endpoint(server), timeout=10).close()
    idle.close()
    slow.close()
    with pytest.raises(StoreError, match="closed"):
        server.start()


def test_close_without_start(layout: LayoutMaker) -> None:
    server = Server(layout.root)
    descriptors = len(os.listdir("/dev/fd"))
    server.close()
    assert len(os.listdir("/dev/fd")) == descriptors - 2  # the socket and the layout's directory


def test_ipv6_address_can_stand_in_a_reference(layout: LayoutMaker) -> None:
    layout.image("redis:demo")
    try:
        server = Server(layout.root, ("::1", 0))
    except StoreError:
        pytest.skip("no IPv6 here")
    with server:
        assert re.fullmatch(r"\[::1\]:[0-9]+", server.address)
        connection = http.client.HTTPConnection(server.address, timeout=10)
        connection.request("GET", "/v2/redis/tags/list")
        assert connection.getresponse().read() == b'{"name": "redis", "tags": ["demo"]}'
        connection.close()


def test_address_in_use_is_one_line(layout: LayoutMaker) -> None:
    with Server(layout.root) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(StoreError, match=rf"^can't listen on 127\.0\.0\.1:{port}: Address already in use"):
            Server(layout.root, ("127.0.0.1", port))


def test_what_is_no_layout_is_refused(tmp_path: Path, layout: LayoutMaker) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Server(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidImageError, match="no file oci-layout"):
        Server(tmp_path / "empty")
    (layout.root / "index.json").write_text("{")
    with pytest.raises(InvalidImageError, match=r"index\.json is not valid JSON"):
        Server(layout.root)
    (layout.root / "index.json").write_text("[]")
    with pytest.raises(InvalidImageError, match="manifests is missing"):
        Server(layout.root)
    (layout.root / "oci-layout").write_text('{"imageLayoutVersion": "2"}')
    with pytest.raises(InvalidImageError, match="version '2'"):
        Server(layout.root)


def test_twenty_readers_at_once_get_their_bytes(layout: LayoutMaker, server: Server) -> None:
    layout.image("redis:demo")
    data = os.urandom(3 << 20)
    digest = layout.blob(data, "")["digest"]
    barrier = threading.Barrier(20)
    seen: list[str] = []

    def read() -> None:
        connection = http.client.HTTPConnection(server.address, timeout=30)
        barrier.wait(30)
        connection.request("GET", f"/v2/redis/blobs/{digest}")
        seen.append(f"sha256:{sha256(connection.getresponse().read()).hexdigest()}")
        connection.close()

    threads = [threading.Thread(target=read, name=f"reader-{number}") for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [digest] * 20


def test_connections_that_ended_are_forgotten(layout: LayoutMaker, server: Server) -> None:
    for _ in range(5):
        connection = http.client.HTTPConnection(server.address, timeout=10)
        connection.request("GET", "/v2/")
        connection.getresponse().read()
        connection.close()
    deadline = time.monotonic() + 10
    while server._listener._connections and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert not server._listener._connections


@pytest.mark.realpeer
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not on PATH")
def test_skopeo_inspects_and_copies(layout: LayoutMaker, server: Server, tmp_path: Path) -> None:
    image = layout.image("docker.io/library/redis:7.2", os.urandom(100_000))
    source = f"docker://{server.address}/library/redis"
    command = ["skopeo", "inspect", "--tls-verify=false", f"{source}:7.2"]
    inspected = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert (inspected["Digest"], inspected["RepoTags"]) == (image["digest"], ["7.2"])
    for reference in (f"{source}:7.2", f"{source}@{image['digest']}"):
        target = tmp_path / f"copy-{len(reference)}"
        command = ["skopeo", "copy", "--src-tls-verify=false", reference, f"oci:{target}:copied"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        # Its layout names entries by tag alone: serve that, too, and go round once more.
        with Server(target) as second:
            again = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{second.address}/{target.name}:copied"]
            raw = subprocess.run(again, check=True, capture_output=True, timeout=60).stdout
        assert f"sha256:{sha256(raw).hexdigest()}" == image["digest"]


@pytest.mark.realpeer
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not on PATH")
def test_skopeo_selects_a_platform_of_a_composed_index(layout: LayoutMaker, server: Server) -> None:
    for architecture in ("amd64", "arm64"):
        layout.image("redis:demo", architecture.encode(), architecture)
    command = ["skopeo", "--override-arch=arm64", "inspect", "--tls-verify=false", "--config"]
    command.append(f"docker://{server.address}/redis:demo")
    config = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert config["architecture"] == "arm64"
