"""What goes out on the wire, what comes back, and how failures are told."""

from __future__ import annotations

import gc
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from fakes.registry import CLOSE, RESET, FakeRegistry, Gate, Reply
from fakes.threads import Worker, until
from imgpull.errors import PullCancelledError, RegistryUnavailableError
from imgpull.locking import Cancellation
from imgpull.registry.transport import Response, Transport
from imgpull.registry.transport.body import Body
from imgpull.registry.transport.pool import Line

LIMIT = 1 << 20


def read(body: Body, block: int = 256 * 1024) -> bytes:
    found, view = bytearray(), memoryview(bytearray(block))
    with body:
        while size := body.readinto(view):
            found += view[:size]
    return bytes(found)


def whole(transport: Transport, how: str, url: str, limit_bytes: int = LIMIT, **options: Any) -> Response:
    """A whole answer, by urllib3 or, as a form without fields, by requests."""
    if how == "form":
        return transport.form("GET", url, {}, limit_bytes=limit_bytes, **options)
    return transport.request("GET", url, limit_bytes=limit_bytes, **options)


# What goes out.


@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_headers_are_ours_and_no_others(registry: FakeRegistry, transport: Transport, how: str) -> None:
    url = f"{registry.url}/v2/"
    if how != "stream":
        whole(transport, how, url, headers={"Accept": "a"})
    else:
        read(transport.stream(url, headers={"Accept": "a"}))
    assert registry.requests[0].headers == {
        "host": registry.address,
        "user-agent": "imgpull",
        "accept-encoding": "identity",
        "accept": "a",
    }


@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_the_environment_has_no_say(
    registry: FakeRegistry, transport: Transport, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\ndefault login canary password canary\n")
    netrc.chmod(0o600)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    headers = {"Authorization": "Bearer mine"}
    if how != "stream":
        whole(transport, how, f"{registry.url}/v2/", headers=headers)
        whole(transport, how, f"{registry.url}/v2/")
    else:
        read(transport.stream(f"{registry.url}/v2/", headers=headers))
        read(transport.stream(f"{registry.url}/v2/"))
    assert [request.headers.get("authorization") for request in registry.requests] == ["Bearer mine", None]


def test_fields_go_behind_the_query_of_a_get_and_into_the_body_of_a_post(
    registry: FakeRegistry, transport: Transport
) -> None:
    for method in ("GET", "POST"):
        transport.form(method, f"{registry.url}/v2/?a=1#part", {"scope": "b c:d/e"}, limit_bytes=LIMIT)
    get, post = registry.requests
    assert (get.target, get.body) == ("/v2/?a=1&scope=b+c%3Ad%2Fe", b"")
    assert (post.target, post.body) == ("/v2/?a=1", b"scope=b+c%3Ad%2Fe")
    assert post.headers["content-type"] == "application/x-www-form-urlencoded"


def test_cookies_are_not_kept(registry: FakeRegistry, transport: Transport) -> None:
    registry.script("GET", "/v2/", Reply(200, {"Set-Cookie": "canary=1; Path=/"}))
    whole(transport, "form", f"{registry.url}/v2/")
    whole(transport, "form", f"{registry.url}/v2/")
    assert "cookie" not in registry.requests[1].headers


@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_redirects_and_statuses_are_for_others_to_judge(registry: FakeRegistry, transport: Transport, how: str) -> None:
    registry.always("GET", "/v2/", Reply(307, {"Location": f"{registry.url}/elsewhere"}, b"body"))
    url = f"{registry.url}/v2/"
    status = (
        transport.request("GET", url, limit_bytes=LIMIT).status if how == "request" else transport.stream(url).status
    )
    assert status == 307
    assert registry.count() == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_nothing_is_tried_again_down_here(registry: FakeRegistry, transport: Transport, status: int, how: str) -> None:
    registry.always("GET", "/v2/", Reply(status, {"Retry-After": "1"}))
    if how != "stream":
        whole(transport, how, f"{registry.url}/v2/")
    else:
        transport.stream(f"{registry.url}/v2/").close()
    registry.always("GET", "/dead", Reply(before=(RESET,)))
    with pytest.raises(RegistryUnavailableError):
        if how != "stream":
            whole(transport, how, f"{registry.url}/dead")
        else:
            transport.stream(f"{registry.url}/dead")
    assert (registry.count("GET", "/v2/"), registry.count("GET", "/dead")) == (1, 1)


# What comes back.


@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_the_body_is_raw(registry: FakeRegistry, transport: Transport, how: str) -> None:
    packed = b"\x1f\x8b" + b"not gzip at all" * 1000
    registry.always("GET", "/v2/", Reply(200, {"Content-Encoding": "gzip"}, packed))
    url = f"{registry.url}/v2/"
    found = transport.request("GET", url, limit_bytes=LIMIT).body if how == "request" else read(transport.stream(url))
    assert found == packed


def test_a_redirect_that_answers_a_form_is_read_no_further_than_the_limit(
    registry: FakeRegistry, transport: Transport
) -> None:
    """requests' session would read it whole."""
    registry.always("POST", "/token", Reply(302, {"Location": "http://127.0.0.1:1/"}, body=bytes(3_000_000)))
    response = transport.form("POST", f"{registry.url}/token", {"a": "b"}, limit_bytes=100)
    assert (response.status, len(response.body), response.cut_short) == (302, 100, True)


@pytest.mark.parametrize(("size", "cut_short"), [(99, False), (100, False), (101, True), (100_000, True)])
@pytest.mark.parametrize("framing", ["length", "chunked", "until_close"])
def test_the_limit(registry: FakeRegistry, transport: Transport, size: int, cut_short: bool, framing: str) -> None:
    body = bytes(size)
    reply = {"length": Reply(200, body=body), "chunked": Reply(200, body=body, chunked=True)}
    registry.always("GET", "/v2/", reply.get(framing, Reply(200, body=body, until_close=True)))
    response = transport.request("GET", f"{registry.url}/v2/", limit_bytes=100)
    assert response.cut_short is cut_short
    assert response.body == body[:100]


def test_an_endless_body_is_left_after_the_limit(registry: FakeRegistry, transport: Transport) -> None:
    gate = Gate()
    registry.always("GET", "/v2/", Reply(200, chunked=True, pieces=(bytes(1000), gate)))
    assert transport.request("GET", f"{registry.url}/v2/", limit_bytes=100).cut_short
    gate.open()
    until(lambda: registry.open_connections == 0, "the connection to be closed")


def test_header_names_have_no_case_and_equal_ones_are_joined(registry: FakeRegistry, transport: Transport) -> None:
    registry.always("GET", "/v2/", Reply(200, [("WWW-Authenticate", "a"), ("www-authenticate", "b")]))
    assert transport.request("GET", f"{registry.url}/v2/", limit_bytes=0).headers["Www-Authenticate"] == "a, b"


def test_head_has_no_body_and_keeps_the_connection(registry: FakeRegistry, transport: Transport) -> None:
    registry.always("HEAD", "/v2/", Reply(200, {"Content-Length": "12345"}))
    for _ in range(3):
        assert transport.request("HEAD", f"{registry.url}/v2/", limit_bytes=10).body == b""
    assert registry.connections == 1


def test_requests_and_urllib3_share_connections(registry: FakeRegistry, transport: Transport) -> None:
    registry.always("GET", "/v2/", Reply(200, body=bytes(300_000)))
    for _ in range(3):
        transport.form("GET", f"{registry.url}/v2/", {}, limit_bytes=LIMIT)
        transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT)
        read(transport.stream(f"{registry.url}/v2/"))
    worker = Worker(lambda: transport.form("GET", f"{registry.url}/v2/", {}, limit_bytes=LIMIT))
    worker.start()
    assert worker.done().error is None
    assert registry.connections == 1


def test_a_half_read_body_is_not_reused(registry: FakeRegistry, transport: Transport) -> None:
    registry.always("GET", "/v2/", Reply(200, body=bytes(300_000)))
    with transport.stream(f"{registry.url}/v2/") as body:
        body.readinto(memoryview(bytearray(10)))
    assert read(transport.stream(f"{registry.url}/v2/")) == bytes(300_000)
    assert registry.connections == 2


def test_whole_answers_are_bounded_per_host_and_bodies_are_not(registry: FakeRegistry, transport: Transport) -> None:
    gate = Gate()
    registry.always("GET", "/slow", Reply(before=(gate,)))
    workers = [
        Worker(lambda: transport.request("GET", f"{registry.url}/slow", limit_bytes=LIMIT), f"asker-{number}")
        for number in range(40)
    ]
    for worker in workers:
        worker.start()
    until(lambda: registry.count("GET", "/slow") == 32, "32 requests")
    slots = transport._slots_of(registry.url)
    until(lambda: len(slots._queue) == 8, "the others to queue")
    assert registry.count("GET", "/slow") == 32
    read(transport.stream(f"{registry.url}/v2/"))
    gate.open()
    assert all(worker.done().error is None for worker in workers)
    assert registry.count("GET", "/slow") == 40


# How it fails.


@pytest.mark.parametrize(
    "reply",
    [
        Reply(before=(RESET,)),
        Reply(before=(CLOSE,)),
        Reply(before=(b"HTTP/1.1 2", CLOSE)),
        Reply(before=(b"not http at all\r\n\r\n", CLOSE)),
        Reply(before=(b"HTTP/1.1 abc what\r\n\r\n", CLOSE)),
        Reply(before=(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n", CLOSE)),
        Reply(before=(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", CLOSE)),
        Reply(200, body=bytes(100), pieces=(bytes(50), CLOSE)),
        Reply(200, body=bytes(100), pieces=(bytes(50), RESET)),
        Reply(200, chunked=True, pieces=(bytes(50), CLOSE)),
        Reply(200, headers=[("Content-Length", "5"), ("Content-Length", "6")], body=b"12345"),
    ],
)
@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_a_broken_answer_is_transient(registry: FakeRegistry, transport: Transport, reply: Reply, how: str) -> None:
    registry.always("GET", "/v2/", reply)
    with pytest.raises(RegistryUnavailableError) as caught:
        if how != "stream":
            whole(transport, how, f"{registry.url}/v2/")
        else:
            read(transport.stream(f"{registry.url}/v2/"))
    assert caught.value.retryable
    assert caught.value.registry == registry.address
    assert caught.value.__cause__ is None


def test_bytes_before_a_failure_are_returned_first(registry: FakeRegistry, transport: Transport) -> None:
    registry.always("GET", "/v2/", Reply(200, body=bytes(200), pieces=(bytes(150), CLOSE)))
    with transport.stream(f"{registry.url}/v2/") as body:
        view = memoryview(bytearray(1000))
        assert body.readinto(view) == 150
        with pytest.raises(RegistryUnavailableError):
            body.readinto(view)
        with pytest.raises(RegistryUnavailableError):
            body.readinto(view)


@pytest.mark.parametrize("how", ["request", "form"])
def test_a_stall_ends_with_the_read_timeout(registry: FakeRegistry, how: str) -> None:
    registry.always("GET", "/v2/", Reply(200, body=bytes(200), pieces=(bytes(150), Gate())))
    registry.always("GET", "/silent", Reply(before=(Gate(),)))
    transport = Transport(read_timeout_seconds=0.05)
    for path in ("/v2/", "/silent"):
        with pytest.raises(RegistryUnavailableError, match="no data came") as caught:
            whole(transport, how, registry.url + path)
        assert caught.value.retryable


def test_a_crawl_is_a_failure_though_each_byte_is_in_time(registry: FakeRegistry, transport: Transport) -> None:
    class Ticking:
        now = 0.0

        def __call__(self) -> float:
            self.now += 4.0  # each read takes four seconds by this clock
            return self.now

    gates = [Gate() for _ in range(12)]
    registry.always("GET", "/v2/", Reply(200, body=bytes(1000), pieces=[p for g in gates for p in (b"x", g)]))
    with transport.stream(f"{registry.url}/v2/") as body:
        body._clock = Ticking()
        received = 0
        with pytest.raises(RegistryUnavailableError, match="less than 1 KiB/s") as caught:
            for gate in gates:
                received += body.readinto(memoryview(bytearray(1)))
                gate.open()
        assert received == 7  # the eighth read ends the half minute
        assert caught.value.retryable


@pytest.mark.parametrize("how", ["request", "form"])
def test_a_refused_connection_is_final(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RegistryUnavailableError, match=f"127.0.0.1:{port}: connection refused") as caught:
        whole(Transport(), how, f"http://127.0.0.1:{port}/")
    assert not caught.value.retryable


@pytest.mark.parametrize("how", ["request", "form"])
def test_an_unknown_name_is_final(how: str) -> None:
    with pytest.raises(RegistryUnavailableError, match="name can't be resolved") as caught:
        whole(Transport(), how, "http://registry.invalid/")
    assert not caught.value.retryable


@pytest.mark.parametrize("url", ["http://[::1/", "http://a..example/", "http://" + "a" * 70 + ".example/"])
def test_an_impossible_url_is_told_as_such(url: str) -> None:
    for ask in (partial(whole, how="request"), partial(whole, how="form"), Transport.stream):
        with pytest.raises((RegistryUnavailableError, ValueError)) as caught:
            ask(Transport(), url=url)
        assert "\n" not in str(caught.value)


# Cancelling.


@pytest.mark.parametrize("how", ["request", "form", "stream"])
@pytest.mark.parametrize("where", ["head", "body"])
def test_cancel_cuts_it_wherever_it_waits(registry: FakeRegistry, transport: Transport, how: str, where: str) -> None:
    gate, cancel = Gate(), Cancellation()
    head, body = Reply(before=(gate,)), Reply(200, body=bytes(100_000), pieces=(bytes(70_000), gate))
    registry.always("GET", "/v2/", head if where == "head" else body)

    def ask() -> object:
        if how != "stream":
            return whole(transport, how, f"{registry.url}/v2/", cancel=cancel)
        return read(transport.stream(f"{registry.url}/v2/", cancel=cancel))

    worker = Worker(ask)
    worker.start()
    gate.wait_reached()
    cancel.cancel()
    assert isinstance(worker.done().error, PullCancelledError)
    assert not cancel._callbacks  # nothing is left behind


def test_cancelled_before_it_began(registry: FakeRegistry, transport: Transport) -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(PullCancelledError):
        transport.stream(f"{registry.url}/v2/", cancel=cancel)
    assert registry.count() == 0


def test_shutdown_wakes_the_reader_from_another_thread(registry: FakeRegistry, transport: Transport) -> None:
    gate = registry.block("/v2/", at=1)
    body = transport.stream(f"{registry.url}/v2/")
    assert body.readinto(memoryview(bytearray(1))) == 1
    worker = Worker(lambda: body.readinto(memoryview(bytearray(10))))
    worker.start()
    gate.wait_reached()
    body.shutdown()
    assert isinstance(worker.done().error, PullCancelledError)


def test_a_late_cancel_does_not_cut_the_next_user_of_the_connection(
    registry: FakeRegistry, transport: Transport
) -> None:
    registry.script("GET", "/v2/", Reply(200, body=bytes(10)))
    first = transport.stream(f"{registry.url}/v2/")
    assert first.readinto(memoryview(bytearray(10))) == 10  # all of it: the connection is back, though nobody closed
    gate = registry.block("/v2/", at=1)
    second = transport.stream(f"{registry.url}/v2/")
    gate.wait_reached()
    assert registry.connections == 1
    first.shutdown()
    gate.open()
    assert read(second) == b"{}"


def test_a_cut_while_connecting_is_not_lost() -> None:
    ours, theirs = socket.socketpair()
    line = Line()
    line.cut()
    line.attach(ours)
    with ours, theirs:
        assert theirs.recv(1) == b""


def test_callbacks_are_removed_when_the_body_ends(registry: FakeRegistry, transport: Transport) -> None:
    cancel = Cancellation()
    read(transport.stream(f"{registry.url}/v2/", cancel=cancel))
    transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT, cancel=cancel)
    transport.stream(f"{registry.url}/v2/", cancel=cancel).close()
    assert not cancel._callbacks


# TLS.


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[FakeRegistry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FakeRegistry(tls=context) as registry:
        yield registry


def trusting(authority: trustme.CA) -> Transport:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Transport(context=context)


def test_a_trusted_certificate_serves_both(secure: FakeRegistry, authority: trustme.CA) -> None:
    transport = trusting(authority)
    assert transport.request("GET", f"{secure.url}/v2/", limit_bytes=LIMIT).status == 200
    assert read(transport.stream(f"{secure.url}/v2/")) == b"{}"
    assert secure.connections == 1


def test_ssl_cert_file_is_honoured(
    secure: FakeRegistry, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert Transport().request("GET", f"{secure.url}/v2/", limit_bytes=LIMIT).status == 200


@pytest.mark.parametrize("how", ["request", "form", "stream"])
def test_an_untrusted_one_is_final_and_nothing_is_asked(secure: FakeRegistry, transport: Transport, how: str) -> None:
    with pytest.raises(RegistryUnavailableError, match="certificate is not trusted .*SSL_CERT_FILE") as caught:
        if how != "stream":
            whole(transport, how, f"{secure.url}/v2/")
        else:
            transport.stream(f"{secure.url}/v2/")
    assert not caught.value.retryable
    assert secure.count() == 0


def test_one_policy_does_not_lend_its_trust_to_another(secure: FakeRegistry, authority: trustme.CA) -> None:
    trusting(authority).request("GET", f"{secure.url}/v2/", limit_bytes=LIMIT)
    with pytest.raises(RegistryUnavailableError, match="not trusted"):
        Transport().request("GET", f"{secure.url}/v2/", limit_bytes=LIMIT)


def test_the_wrong_name_is_not_trusted(authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    with FakeRegistry(tls=context) as registry, pytest.raises(RegistryUnavailableError, match="not trusted"):
        trusting(authority).request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT)


def test_plain_http_behind_https_is_no_reason_to_fall_back(registry: FakeRegistry, transport: Transport) -> None:
    with pytest.raises(RegistryUnavailableError, match="TLS failed.*plain_http") as caught:
        transport.request("GET", f"https://{registry.address}/v2/", limit_bytes=LIMIT)
    assert not caught.value.retryable
    assert all("HTTP/1" not in request.target for request in registry.requests)


def test_cancel_cuts_a_tls_body(secure: FakeRegistry, authority: trustme.CA) -> None:
    gate, cancel = Gate(), Cancellation()
    secure.always("GET", "/v2/", Reply(200, body=bytes(100_000), pieces=(bytes(90_000), gate)))
    transport = trusting(authority)
    worker = Worker(lambda: read(transport.stream(f"{secure.url}/v2/", cancel=cancel)))
    worker.start()
    gate.wait_reached()
    cancel.cancel()
    assert isinstance(worker.done().error, PullCancelledError)


# Logs, forks.


def test_queries_do_not_reach_the_log(
    registry: FakeRegistry, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        transport.request("GET", f"{registry.url}/v2/?X-Signature=canary", limit_bytes=LIMIT)
        read(transport.stream(f"{registry.url}/v2/?X-Signature=canary"))
    assert "/v2/?…" in caplog.text
    assert "canary" not in caplog.text


def test_others_who_use_urllib3_keep_their_log(registry: FakeRegistry, caplog: pytest.LogCaptureFixture) -> None:
    import urllib3

    with caplog.at_level(logging.DEBUG), urllib3.PoolManager() as pools:
        pools.request("GET", f"{registry.url}/v2/?page=2")
    assert "/v2/?page=2" in caplog.text


def test_a_hostile_header_puts_nothing_on_stderr(
    registry: FakeRegistry, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno colon here\r\n\r\n"
    registry.always("GET", "/v2/", Reply(before=(head, CLOSE)))
    with caplog.at_level(logging.DEBUG):
        transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_opens_connections_of_its_own(registry: FakeRegistry, transport: Transport) -> None:
    transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT).status
        finally:
            os._exit(0 if status == 200 else 1)
    assert os.waitpid(child, 0)[1] == 0
    transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT)
    assert registry.connections == 2
    assert registry.requests[0].connection == registry.requests[2].connection


def test_connections_close_with_the_last_reference(registry: FakeRegistry) -> None:
    def use() -> None:
        transport = Transport()
        ask = partial(transport.request, "GET", f"{registry.url}/v2/", limit_bytes=LIMIT)
        workers = [Worker(ask) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            assert worker.done().error is None
        assert registry.open_connections >= 1

    use()
    until(lambda: gc.collect() is not None and registry.open_connections == 0, "the connections to close")


def test_close_ends_idle_connections_and_spares_those_in_use(registry: FakeRegistry, transport: Transport) -> None:
    gate = registry.block("/v2/", at=1)
    body = transport.stream(f"{registry.url}/v2/")
    transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT)
    assert registry.open_connections == 2
    transport.close()
    until(lambda: registry.open_connections == 1, "the idle connection to close")
    gate.open()
    assert read(body) == b"{}"
    until(lambda: registry.open_connections == 0, "the other one to close when done")
    assert transport.request("GET", f"{registry.url}/v2/", limit_bytes=LIMIT).status == 200


def test_many_threads_at_once(registry: FakeRegistry, transport: Transport) -> None:
    registry.always("GET", "/v2/", Reply(200, body=bytes(range(256)) * 1000))
    barrier = threading.Barrier(16)

    def ask() -> None:
        barrier.wait()
        for _ in range(5):
            assert read(transport.stream(f"{registry.url}/v2/")) == bytes(range(256)) * 1000

    workers = [Worker(ask) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        assert worker.done().error is None
    assert registry.count() == 80
    assert registry.connections <= 16
