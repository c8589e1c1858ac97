"""One connection of the server: requests of the distribution specification 1.1, pull side."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from imgpull import oci
from imgpull.errors import ImageError
from imgpull.serve.layout import Blob, LayoutReader
from imgpull.serve.names import is_repository, is_tag

__all__ = ["Handler"]

_log = logging.getLogger("imgpull.serve")

_IDLE_SECONDS = 120
"""A peer that neither asks nor takes anything for so long is given up, in the kernel: a Python timeout would make
the socket non-blocking, and sendfile then needs a selector and one call per socket buffer."""

_SEND_BYTES = 1 << 30
_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags)/(?P<reference>[^/]+)", re.DOTALL)
_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})", re.ASCII | re.IGNORECASE)


class _Refusal(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: HTTPStatus, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests, one after the other (HTTP/1.1, kept alive)."""

    protocol_version = "HTTP/1.1"
    server_version = "imgpull"
    sys_version = ""
    disable_nagle_algorithm = True  # a header and a small body are two packets: the second must not wait for an ACK
    layout: LayoutReader

    def setup(self) -> None:
        super().setup()
        self.layout = self.server.layout  # type: ignore[attr-defined]
        limit = struct.pack("ll", _IDLE_SECONDS, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def log_message(self, format: str, *arguments: object) -> None:
        _log.debug("%s " + format, self.address_string(), *arguments)

    def do_GET(self) -> None:
        # A body would be read as the next request; nothing here takes one.
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        try:
            self._route()
        except _Refusal as refusal:
            self._refuse(refusal)
        except ImageError as error:  # index.json went away under us
            _log.info("%s", error)
            self._refuse(_Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "the layout can't be read"))

    do_HEAD = do_GET

    def _unsupported(self) -> None:
        self.close_connection = True
        message = f"{self.command} is not supported: this registry is read-only"
        self._refuse(_Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", message, Allow="GET, HEAD"))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _unsupported

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if path in ("/v2/", "/v2"):
            self._send_json({})
        elif path == "/v2/_catalog":
            self._list(path, parts.query, "repositories", self.layout.names().repositories, {})
        elif match := _ROUTE.fullmatch(path):
            name, kind, reference = match.group("name", "kind", "reference")
            if not is_repository(name):
                raise _Refusal(HTTPStatus.BAD_REQUEST, "NAME_INVALID", "invalid repository name")
            tags = self.layout.names().repositories.get(name)
            if tags is None:
                raise _Refusal(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", f"repository {name} is not here")
            self._kinds[kind](self, name, reference, tags, parts.query)
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND, "UNSUPPORTED", "not a path of the distribution specification")

    def _manifest(self, name: str, reference: str, tags: Mapping[str, oci.Digest], _: str) -> None:
        wanted = _digest(reference) if ":" in reference else tags.get(reference)
        if wanted is None and not is_tag(reference):
            raise _Refusal(HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", "invalid tag")
        document = self.layout.document(wanted) if wanted is not None else None
        if document is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")
        self._send(HTTPStatus.OK, document.raw, document.media_type, _identity(document.digest))

    def _blob(self, name: str, reference: str, _tags: Mapping[str, oci.Digest], _: str) -> None:
        digest = _digest(reference)
        with self.layout.blob(digest) as blob:
            if blob is None:
                raise _Refusal(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", f"{name} has no blob {digest}")
            self._send_blob(digest, blob)

    def _tags(self, name: str, reference: str, tags: Mapping[str, oci.Digest], query: str) -> None:
        if reference != "list":
            raise _Refusal(HTTPStatus.NOT_FOUND, "UNSUPPORTED", "not a path of the distribution specification")
        self._list(f"/v2/{name}/tags/list", query, "tags", tags, {"name": name})

    _kinds: ClassVar[dict[str, Callable[[Handler, str, str, Mapping[str, oci.Digest], str], None]]] = {
        "manifests": _manifest,
        "blobs": _blob,
        "tags": _tags,
    }

    def _list(self, path: str, query: str, field: str, items: Iterable[str], other: dict[str, str]) -> None:
        """A page of ``items`` in lexical order ("Listing Tags"): at most ``n``, from after ``last``."""
        asked = parse_qs(query)
        last = asked.get("last", [""])[-1]
        page = sorted(item for item in items if item > last)
        headers = {}
        if "n" in asked:
            count = _count(asked["n"][-1])
            if 0 < count < len(page):
                headers["Link"] = f'<{path}?n={count}&last={quote(page[count - 1], safe="")}>; rel="next"'
            page = page[:count]
        self._send_json({**other, field: page}, headers)

    def _send_blob(self, digest: oci.Digest, blob: Blob) -> None:
        span = self._span(digest, blob.size_bytes)
        first, last = span or (0, blob.size_bytes - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK)
        headers = {**_identity(digest), "Accept-Ranges": "bytes"}
        if span:
            headers["Content-Range"] = f"bytes {first}-{last}/{blob.size_bytes}"
        self._finish_headers("application/octet-stream", last - first + 1, headers)
        if self.command == "GET":
            self._send_file(blob.fd, first, last + 1)

    def _send_file(self, fd: int, offset_bytes: int, end_bytes: int) -> None:
        while offset_bytes < end_bytes:
            sent = os.sendfile(self.connection.fileno(), fd, offset_bytes, min(end_bytes - offset_bytes, _SEND_BYTES))
            if sent == 0:  # shorter than it was when its length was promised
                self.close_connection = True
                return
            offset_bytes += sent

    def _span(self, digest: oci.Digest, size_bytes: int) -> tuple[int, int] | None:
        """First and last byte asked for, or None for all of it (RFC 9110 section 14). Several ranges, another unit
        and a malformed header are ignored, as the RFC lets a server do."""
        match = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if match is None or self.command != "GET" or self.headers.get("If-Range", f'"{digest}"') != f'"{digest}"':
            return None
        first, last = match.group("first", "last")
        if not first and not last:
            return None
        if not first:
            span = max(0, size_bytes - int(last)), size_bytes - 1
        else:
            span = int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1
            if last and int(last) < int(first):
                return None
        if span[0] > span[1]:
            raise _Refusal(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "SIZE_INVALID",
                f"the blob has {size_bytes} bytes",
                Content_Range=f"bytes */{size_bytes}",
            )
        return span

    def _refuse(self, refusal: _Refusal) -> None:
        document = {"errors": [{"code": refusal.code, "message": str(refusal), "detail": None}]}
        self._send(refusal.status, json.dumps(document).encode(), "application/json", refusal.headers)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """http.server's own refusals (a malformed request line, an unknown method), in the specification's form."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._refuse(_Refusal(status, "UNSUPPORTED", message or status.phrase))

    def _send_json(self, document: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(HTTPStatus.OK, json.dumps(document).encode(), "application/json", headers or {})

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self._finish_headers(content_type, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _finish_headers(self, content_type: str, size_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(size_bytes))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _identity(digest: oci.Digest) -> dict[str, str]:
    return {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def _digest(text: str) -> oci.Digest:
    try:
        return oci.Digest(text)
    except ImageError as error:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", str(error)) from None


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise _Refusal(HTTPStatus.BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n must be a number")
    return int(text)
