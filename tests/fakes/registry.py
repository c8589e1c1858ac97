"""A registry for tests: images in memory, a log of every request, and a script of what goes wrong.

    with FakeRegistry() as registry:
        reference = registry.add(images.build([{"a": b"1"}]), "library/redis", "7.2")   # "127.0.0.1:3456/library/…:7.2"
        registry.script("GET", "/blobs/", Reply(503), truncated(100))      # the first two; later ones are answered well
        gate = registry.block(digest, at=100)                              # stands there until gate.open()
        ...
        assert registry.count("GET", digest) == 3

Several on ``127.0.0.1`` to ``127.0.0.9`` (``FakeRegistry("127.0.0.2")``) are several hosts: a CDN, a mirror, a thief.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from fakes.images import Image, Index, sha256
from fakes.tokens import BasicAuth, BearerAuth
from fakes.wire import CLOSE, RESET, Ending, Gate, Reply, Request, WireServer

__all__ = [
    "CLOSE",
    "RESET",
    "Answer",
    "BasicAuth",
    "BearerAuth",
    "FakeRegistry",
    "Gate",
    "Reply",
    "Request",
    "corrupted",
    "held",
    "ignoring_range",
    "redirect",
    "refused",
    "reset",
    "stalled",
    "truncated",
]

Answer = Reply | Callable[[Request, Callable[[Request], Reply]], Reply]
"""An answer of a script: as it is, or made from the request and the function that answers requests properly."""


@dataclass
class _Script:
    method: str
    fragment: str
    answers: deque[Answer]
    forever: bool

    def matches(self, request: Request) -> bool:
        return bool(self.answers) and self.method in ("*", request.method) and self.fragment in request.target

    def next(self) -> Answer:
        return self.answers[0] if self.forever else self.answers.popleft()


class FakeRegistry:
    """One host that speaks the distribution protocol, and whatever its script says."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        auth: BasicAuth | BearerAuth | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.auth = auth
        self.head_digest = True
        """Whether answers carry ``Docker-Content-Digest``."""
        self._lock = threading.Lock()  # guards everything below
        self._requests: list[Request] = []
        self._scripts: list[_Script] = []
        self._manifests: dict[str, tuple[str, bytes]] = {}
        self._blobs: dict[str, bytes] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self._server = WireServer(self._respond, host, tls)
        self._scheme = "http" if tls is None else "https"

    # What it holds.

    @property
    def address(self) -> str:
        """``host:port``, as references begin with."""
        return self._server.address

    @property
    def url(self) -> str:
        """``scheme://host:port``."""
        return f"{self._scheme}://{self.address}"

    def add(self, image: Image | Index, repository: str = "library/fake", tag: str = "latest") -> str:
        """Take in an image or index with all that it names; return the reference to pull it by."""
        with self._lock:
            self._manifests.update(image.manifests)
            self._blobs.update(image.blobs)
            self._tags.setdefault(repository, {})[tag] = image.digest
        return f"{self.address}/{repository}:{tag}"

    def add_manifest(self, raw: bytes, media_type: str, repository: str = "library/fake", tag: str = "latest") -> str:
        """Take in any document as a manifest; return its reference."""
        digest = sha256(raw)
        with self._lock:
            self._manifests[digest] = (media_type, raw)
            self._tags.setdefault(repository, {})[tag] = digest
        return f"{self.address}/{repository}:{tag}"

    def add_blob(self, data: bytes, digest: str = "") -> str:
        """Take in a blob, under its digest or, for a lie, another one; return the digest."""
        digest = digest or sha256(data)
        with self._lock:
            self._blobs[digest] = data
        return digest

    def remove_blob(self, digest: str) -> None:
        """Forget a blob."""
        with self._lock:
            del self._blobs[digest]

    # What goes wrong.

    def script(self, method: str, fragment: str, *answers: Answer) -> None:
        """Answer the next requests with this method (``*``: any) and this text in their target so, one each.

        Earlier scripts go first. Requests to the token server are requests too.
        """
        with self._lock:
            self._scripts.append(_Script(method, fragment, deque(answers), forever=False))

    def always(self, method: str, fragment: str, answer: Answer) -> None:
        """Answer every such request so, once the scripts made before are used up."""
        with self._lock:
            self._scripts.append(_Script(method, fragment, deque([answer]), forever=True))

    def block(self, fragment: str, at: int = 0, *, method: str = "GET", times: int = 1) -> Gate:
        """Stop the body of the next ``times`` such answers after ``at`` bytes, until the returned gate opens."""
        gate = Gate()
        self.script(method, fragment, *[stalled(gate, at)] * times)
        return gate

    # What it saw.

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    def seen(self, method: str = "*", fragment: str = "", status: int | None = None) -> list[Request]:
        """The requests with this method, this text in their target, and this status of the answer."""
        return [
            request
            for request in self.requests
            if method in ("*", request.method)
            and fragment in request.target
            and (status is None or request.status == status)
        ]

    def count(self, method: str = "*", fragment: str = "", status: int | None = None) -> int:
        """How many :meth:`seen`."""
        return len(self.seen(method, fragment, status))

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self._requests.clear()

    @property
    def tokens(self) -> int:
        """How many requests came to the token server."""
        return self.count("*", "/token")

    @property
    def connections(self) -> int:
        """How many connections were ever made."""
        return self._server.connections

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._server.open_connections

    # Its life.

    def start(self) -> Self:
        self._server.start()
        return self

    def close(self) -> None:
        """End every connection and join every thread."""
        self._server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # How it answers.

    def _respond(self, request: Request) -> Reply:
        with self._lock:
            self._requests.append(request)
            script = next((script for script in self._scripts if script.matches(request)), None)
            answer = script.next() if script is not None else None
        if answer is None:
            return self._proper(request)
        return answer if isinstance(answer, Reply) else answer(request, self._proper)

    def _proper(self, request: Request) -> Reply:
        if self.auth is not None:
            if request.path == "/token":
                return self.auth.answer(request) or _error(404, "UNSUPPORTED")
            challenge = self.auth.challenge(request, self.address)
            if challenge is not None:
                return _error(401, "UNAUTHORIZED").with_headers(WWW_Authenticate=challenge)
        if request.path in ("/v2", "/v2/"):
            return Reply(200, body=b"{}")
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags)/([^/]+)", request.path)
        if match is None or request.method not in ("GET", "HEAD"):
            return _error(404, "UNSUPPORTED")
        repository, kind, target = match.groups()
        answer = {"manifests": self._manifest, "blobs": self._blob, "tags": self._tag_list}[kind]
        return answer(request, repository, target)

    def _manifest(self, request: Request, repository: str, target: str) -> Reply:
        with self._lock:
            digest = self._tags.get(repository, {}).get(target, target)
            found = self._manifests.get(digest)
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", f"manifest unknown: {target}")
        media_type, raw = found
        reply = Reply(200, {"Content-Type": media_type}, raw)
        return reply.with_headers(Docker_Content_Digest=digest) if self.head_digest else reply

    def _blob(self, request: Request, repository: str, target: str) -> Reply:
        with self._lock:
            data = self._blobs.get(target)
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if match is None:
            return Reply(200, headers, data)
        first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        if first > last:
            return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
        return Reply(206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])

    def _tag_list(self, request: Request, repository: str, target: str) -> Reply:
        with self._lock:
            known = repository in self._tags
            tags = sorted(self._tags.get(repository, {}))
        if not known:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        after, size = request.query.get("last", ""), int(request.query.get("n", 0)) or len(tags)
        left = [tag for tag in tags if tag > after]
        reply = Reply(200, {"Content-Type": "application/json"}, _json({"name": repository, "tags": left[:size]}))
        if len(left) > size:
            link = f'</v2/{repository}/tags/list?n={size}&last={left[size - 1]}>; rel="next"'
            reply = reply.with_headers(Link=link)
        return reply


# Answers for scripts.


def stalled(gate: Gate, at: int = 0) -> Answer:
    """Properly, but after ``at`` bytes of the body it stands at ``gate``."""
    return lambda request, answer: _split(answer(request), at, gate)


def held(gate: Gate) -> Answer:
    """Properly, but nothing of it is sent before ``gate`` opens."""
    return lambda request, answer: replace(answer(request), before=(gate,))


def truncated(at: int) -> Answer:
    """Properly, but the connection is closed after ``at`` bytes of the body."""
    return lambda request, answer: _split(answer(request), at, CLOSE)


def reset(at: int) -> Answer:
    """Properly, but the connection is reset after ``at`` bytes of the body."""
    return lambda request, answer: _split(answer(request), at, RESET)


def corrupted(at: int = 0) -> Answer:
    """Properly, but for one bit of the body."""

    def change(request: Request, answer: Callable[[Request], Reply]) -> Reply:
        reply = answer(request)
        body = bytearray(reply.body)
        body[at] ^= 1
        return replace(reply, body=bytes(body))

    return change


def ignoring_range(request: Request, answer: Callable[[Request], Reply]) -> Reply:
    """All of it, whatever part was asked for."""
    return answer(request.without("range"))


def redirect(location: str, status: int = 307) -> Reply:
    """To another URL."""
    return Reply(status, {"Location": location})


def refused(status: int, code: str = "DENIED", message: str = "no", **headers: str) -> Reply:
    """With an error of the distribution specification."""
    return _error(status, code, message).with_headers(**headers)


def _split(reply: Reply, at: int, event: Gate | Ending) -> Reply:
    return replace(reply, pieces=(reply.body[:at], event, reply.body[at:]))


def _error(status: int, code: str, message: str = "no") -> Reply:
    body = _json({"errors": [{"code": code, "message": message}]})
    return Reply(status, {"Content-Type": "application/json"}, body)


def _json(document: object) -> bytes:
    return json.dumps(document).encode()
