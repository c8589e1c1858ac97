"""Redirects by hand: what is carried along, what is left behind, where it ends."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from imgpull.errors import InsecureTransportError, RegistryUnavailableError
from imgpull.registry.redirects import follow
from imgpull.registry.transport import Response

START = "https://registry.example/v2/a/blobs/x"
HEADERS = {"Authorization": "Bearer canary", "Range": "bytes=5-", "Accept": "*/*", "X-Registry-Token": "canary"}


class Web:
    """Answers from a table of locations, and remembers what it was sent."""

    def __init__(self, locations: Mapping[str, str], status: int = 307) -> None:
        self.locations = locations
        self.status = status
        self.sent: list[tuple[str, Mapping[str, str]]] = []

    def __call__(self, url: str, headers: Mapping[str, str]) -> Response:
        self.sent.append((url, headers))
        location = self.locations.get(url)
        if location is None:
            return Response(200, {}, b"done", url)
        return Response(self.status, {"Location": location}, b"", url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_credentials_stay_behind_at_another_origin(status: int) -> None:
    web = Web({START: "https://cdn.example/blob?signature=1"}, status)
    assert follow(web, START, HEADERS).body == b"done"
    assert web.sent[0][1] == HEADERS
    assert web.sent[1] == ("https://cdn.example/blob?signature=1", {"Range": "bytes=5-", "Accept": "*/*"})


@pytest.mark.parametrize(
    "target", ["https://registry.example:444/x", "https://sub.registry.example/x", "https://example/x"]
)
def test_another_port_or_name_is_another_origin(target: str) -> None:
    web = Web({START: target})
    follow(web, START, HEADERS)
    assert "Authorization" not in web.sent[1][1]


@pytest.mark.parametrize(
    "target", ["/v2/b/blobs/x", "y", "https://registry.example:443/x", "https://REGISTRY.example/x"]
)
def test_within_the_origin_they_go_along(target: str) -> None:
    web = Web({START: target})
    follow(web, START, HEADERS)
    assert web.sent[1][1] == HEADERS


def test_what_was_left_behind_is_not_picked_up_on_the_way_back() -> None:
    web = Web({START: "https://cdn.example/a", "https://cdn.example/a": "https://registry.example/back"})
    follow(web, START, HEADERS)
    assert "Authorization" not in web.sent[2][1]


@pytest.mark.parametrize(
    "target", ["http://cdn.example/x", "http://registry.example/x", "file:///etc/passwd", "https://["]
)
def test_leaving_tls_is_refused_unasked(target: str) -> None:
    web = Web({START: target})
    with pytest.raises(InsecureTransportError):
        follow(web, START, HEADERS)
    assert len(web.sent) == 1


def test_ten_are_followed_and_the_eleventh_is_not() -> None:
    chain = {f"https://a.example/{number}": f"https://a.example/{number + 1}" for number in range(10)}
    assert follow(Web(chain), "https://a.example/0", {}).url == "https://a.example/10"
    web = Web({**chain, "https://a.example/10": "https://a.example/11"})
    with pytest.raises(InsecureTransportError, match="more than 10 redirects"):
        follow(web, "https://a.example/0", {})
    assert len(web.sent) == 11


def test_a_redirect_to_nowhere() -> None:
    with pytest.raises(RegistryUnavailableError, match="without a target") as caught:
        follow(Web({START: " "}), START, HEADERS)
    assert not caught.value.retryable
