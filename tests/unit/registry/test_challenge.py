"""WWW-Authenticate, proper and hostile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgpull.registry.challenge import parse_challenges


def parsed(header: str) -> list[tuple[str, dict[str, str]]]:
    return [(challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges(header)]


BEARER = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        (BEARER, [("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io"})]),
        ('bearer   realm = "x" ,  service=y', [("bearer", {"realm": "x", "service": "y"})]),
        ('Bearer realm="x",scope="a:b:pull,push c:d:pull"',
         [("bearer", {"realm": "x", "scope": "a:b:pull,push c:d:pull"})]),
        ('Bearer realm="x",empty=""', [("bearer", {"realm": "x", "empty": ""})]),
        ('Basic realm="a \\"quoted\\" \\\\ name"', [("basic", {"realm": 'a "quoted" \\ name'})]),
        ('Basic realm="a", Bearer realm="b",service="c"',
         [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})]),
        ('Negotiate, Basic realm="a"', [("negotiate", {}), ("basic", {"realm": "a"})]),
        ('Negotiate abc==, Basic realm="a"', [("negotiate", {}), ("basic", {"realm": "a"})]),
        ('Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
         [("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}), ("basic", {"realm": "simple"})]),
        (', ,Basic realm="a", ,', [("basic", {"realm": "a"})]),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ('BEARER REALM="x"', [("bearer", {"realm": "x"})]),
        ('Bearer realm="unterminated', [("bearer", {})]),
        ('Basic realm="a", "junk"', [("basic", {"realm": "a"})]),
        ("Bearer", [("bearer", {})]),
    ],
)  # fmt: skip
def test_parse(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert parsed(header) == found


@pytest.mark.parametrize(
    "header",
    [BEARER + "\r\nSet-Cookie: a", BEARER + "\0", "Bearer realm=" + '"' + "a" * 20_000 + '"', '"', "=", ",,,,"],
)
def test_what_is_no_challenge_yields_none(header: str) -> None:
    assert parsed(header) == []


def test_there_is_an_end_to_challenges_and_parameters() -> None:
    assert len(parsed(",".join(["Basic"] * 1000))) == 16
    (challenge, *_) = parse_challenges("Bearer " + ",".join(f"p{number}=x" for number in range(1000)))
    assert len(challenge.parameters) == 32


@given(st.text(alphabet='aB="\\, \t/+', max_size=400))
@settings(max_examples=300, deadline=None)
def test_no_header_raises_or_takes_for_ever(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["\\", "a=", "a ", '"', ", ", '\\"', 'a="', "=\t"])
def test_the_parser_does_not_backtrack(piece: str) -> None:
    parse_challenges('Bearer realm="' + piece * (16_000 // len(piece)))
    parse_challenges("Bearer " + piece * (16_000 // len(piece)))
