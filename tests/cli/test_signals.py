"""Ctrl-C and SIGTERM, wherever a pull is: one line, the signal's exit code, and nothing left behind but partials."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes import images, scripts
from fakes.registry import FakeRegistry, held
from fakes.threads import until
from fakes.wire import Gate

from .conftest import Command, Ran

HALF = 600_000
LAYER = images.build_layer({"data": images.random_bytes(2 * HALF)})
SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
every_signal = pytest.mark.parametrize(("number", "code", "word"), SIGNALS)


@pytest.fixture
def image() -> images.Image:
    return images.build([LAYER])


def half_fetched(command: Command, registry: FakeRegistry, image: images.Image) -> tuple[subprocess.Popen[str], Gate]:
    """A pull that has half of the layer on its disk, and all of the config, and waits for the other half."""
    gate = registry.block(image.layers[0].digest, at=HALF)
    process = command.begin("pull", registry.add(image))
    gate.wait_reached()
    config, ingests = command.store / "blobs" / image.config_digest.replace(":", "/"), command.store / "ingest"
    until(lambda: config.exists() and len(list(ingests.iterdir())) == 1, "the config came, beside the layer")
    until(lambda: command.partial_bytes() > len(image.config), "some of the layer is on the disk")
    return process, gate


def end(command: Command, process: subprocess.Popen[str], *numbers: int) -> Ran:
    for number in numbers:
        process.send_signal(number)
    return command.finish(process)


def last_words(ran: Ran) -> str:
    """The error, which is the last line; before it plain lines say what had come to its end."""
    *before, last = ran.err.splitlines()
    assert not [line for line in before if line.startswith("imgpull: ") or line.startswith(" ")], ran.err
    assert last.startswith("imgpull: error: ")
    return last.removeprefix("imgpull: error: ")


def assert_the_next_pull_resumes(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    left = command.partial_bytes()
    assert 0 < left < len(image.layers[0].blob)
    registry.forget()
    document = command("--json", "-q", "pull", registry.add(image)).document[0]
    assert [r.headers["range"] for r in registry.seen("GET", image.layers[0].digest)] == [f"bytes={left}-"]
    assert document["fetched_bytes"] == len(image.layers[0].blob) - left
    assert command.leftovers() == {"images": [registry.add(image)]}


@every_signal
def test_half_of_a_layer_is_here(
    command: Command, registry: FakeRegistry, image: images.Image, number: int, code: int, word: str
) -> None:
    process, gate = half_fetched(command, registry, image)
    ran = end(command, process, number)
    gate.open()
    assert (ran.code, ran.out) == (code, "")
    assert last_words(ran) == f"{word}; the next pull goes on from what has been fetched"
    assert set(command.leftovers()) == {"ingests"}
    assert_the_next_pull_resumes(command, registry, image)


def test_pressed_twice(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    process, gate = half_fetched(command, registry, image)
    ran = end(command, process, signal.SIGINT, signal.SIGINT)
    gate.open()
    assert (ran.code, ran.out) == (130, "")
    assert last_words(ran).startswith("interrupted")
    assert_the_next_pull_resumes(command, registry, image)


@every_signal
def test_while_it_resolves(
    command: Command, registry: FakeRegistry, image: images.Image, number: int, code: int, word: str
) -> None:
    reference = registry.add(image)
    gate = Gate()
    registry.always("HEAD", "/manifests/", held(gate))
    process = command.begin("pull", reference)
    until(lambda: registry.count("HEAD", "/manifests/"), "the registry was asked")
    ran = end(command, process, number)
    gate.open()
    assert (ran.code, ran.out) == (code, "")
    assert ran.error.startswith(word)
    assert command.leftovers() == {}


def test_while_it_unpacks(command: Command, registry: FakeRegistry) -> None:
    image = images.build([{"large": images.random_bytes(1024) * (96 * 1024)}])
    process = command.begin("pull", registry.add(image))
    active = command.store / "snapshots" / "active"
    blob = command.store / "blobs" / image.layers[0].digest.replace(":", "/")
    until(lambda: blob.exists() and list(active.glob("*/snapshot/fs/large")), "the file is being written")
    ran = end(command, process, signal.SIGINT)
    assert (ran.code, ran.out) == (130, "")
    assert last_words(ran).startswith("interrupted")
    assert command.leftovers() == {}
    registry.forget()
    assert command("-q", "pull", registry.add(image)).code == 0
    assert registry.count("GET", image.layers[0].digest) == 0  # the blob was here


@contextmanager
def held_lock(store: Path) -> Iterator[None]:
    """Another process, as far as anybody can tell, is writing to the store's database."""
    fd = os.open(store / "metadata.lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def test_while_another_process_has_the_database(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    assert command("images").code == 0
    with held_lock(command.store):
        process = command.begin("-q", "pull", registry.add(image))
        until(lambda: registry.count("GET", image.digest) or registry.count("HEAD"), "the pull has begun")
        ran = end(command, process, signal.SIGINT)
    assert (ran.code, ran.out) == (130, "")
    assert ran.error.startswith("interrupted")
    assert command("-q", "pull", registry.add(image)).code == 0
    assert command.leftovers() == {"images": [registry.add(image)]}


def ended(patience_seconds: float, body: str) -> tuple[int, str]:
    """A process whose orderly end, after SIGTERM, is ``body``."""
    source = f"""
        import signal, threading
        from imgpull.cli import signals

        signals._PATIENCE_SECONDS = {patience_seconds}
        with signals.Signals().handled(whole_process=True):
            try:
                signal.raise_signal(signal.SIGTERM)
            except signals.Interrupted:
                {body}
                threading.Event().wait()
        """
    process = scripts.begin(source)
    _, err = process.communicate(timeout=scripts.DEADLINE_SECONDS)
    return process.returncode, err


def test_what_takes_too_long_is_ended() -> None:
    """As a thread does that waits for a name server."""
    assert ended(0.1, "pass") == (143, "imgpull: error: terminated\n")


def test_a_second_signal_is_the_end() -> None:
    assert ended(10_000, "signal.raise_signal(signal.SIGINT)") == (143, "imgpull: error: terminated\n")
