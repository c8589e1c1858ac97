"""Processes that find another one at work: one asks the registry for all that wait, one pulls, the rest imports
nothing."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import imgpull
from fakes import scripts
from fakes.images import build, random_bytes
from fakes.registry import FakeRegistry, Gate, Reply
from fakes.threads import DEADLINE_SECONDS, until
from imgpull.errors import NotFoundError, PullCancelledError, PullTimeoutError
from imgpull.events import BlobChanged, Event, Queued, Woken
from imgpull.locking import ProcessKeys
from imgpull.reference import Reference
from imgpull.registry import connect

PROCESSES = 4

PULL = """
    import json
    import imgpull
    from imgpull.events import Queued
    def saw(event):
        if isinstance(event, Queued): print("queued", event.key.partition(":")[0], flush=True)
    root, reference = sys.argv[1:]
    with imgpull.Store(root) as store, imgpull.Puller(store) as puller:
        try:
            digest = puller.pull(reference, progress=saw).digest
        except imgpull.ImgpullError as error:
            digest = type(error).__name__
    heavy = ["urllib3", "requests", "ssl", "http.client", "sqlite_utils", "imgpull.fetch", "imgpull.unpack", "isal"]
    print(json.dumps([digest, [name for name in heavy if name in sys.modules]]))
"""


def resolve_key(reference: str) -> str:
    parsed, registry = Reference.parse(reference), connect()
    try:
        return f"resolve://{parsed} {registry.terms(parsed)}"
    finally:
        registry.close()


def outcomes(said: list[str]) -> list[tuple[str, list[str]]]:
    """Of each process what it pulled, or its error, and what it has imported."""
    return [tuple(json.loads(out.splitlines()[-1])) for out in said]  # type: ignore[misc]


def begin_queued(stack: ExitStack, count: int, root: Path, reference: str) -> list[scripts.Program]:
    """So many processes that wait at the key of their reference, which somebody else has."""
    processes = [stack.enter_context(scripts.begin(PULL, root, reference)) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "queued resolve\n"
    return processes


def test_one_question_answers_all_that_had_begun_and_only_who_works_imports(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    image = build([{"a": random_bytes(1000)}])
    reference = registry.add(image)
    imgpull.Store(tmp_path).close()
    keys = ProcessKeys(tmp_path / "keys.lock")
    with ExitStack() as stack:
        with keys.hold(resolve_key(reference)):
            processes = begin_queued(stack, PROCESSES, tmp_path, reference)
        ended = outcomes([scripts.finish(process) for process in processes])
    keys.close()
    assert [digest for digest, _ in ended] == [image.digest] * PROCESSES
    assert (registry.count("HEAD"), registry.count("GET", "/manifests/")) == (1, 1)
    assert registry.count("GET", f"/blobs/{image.layers[0].digest}") == 1
    # Who asked and who pulled, two at most: who is told last may be the first at the image's key.
    assert [loaded for _, loaded in ended].count([]) >= PROCESSES - 2


def test_who_waits_for_an_image_imports_nothing_and_says_joined(registry: FakeRegistry, tmp_path: Path) -> None:
    image = build([{"a": random_bytes(1000)}])
    registry.add(image)
    gate = registry.block(image.layers[0].digest, at=100)
    reference, events = f"{registry.address}/library/fake@{image.digest}", list[Event]()
    with imgpull.Store(tmp_path) as store, imgpull.Puller(store) as puller:
        pull = puller.submit(reference)
        gate.wait_reached()
        with scripts.begin(PULL, tmp_path, reference) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "queued image\n"
            gate.open()
            assert outcomes([scripts.finish(other)]) == [(image.digest, [])]
        assert pull.result(DEADLINE_SECONDS).digest == image.digest
    gate = registry.block(image.layers[0].digest, at=100)
    with scripts.begin(PULL, tmp_path / "second", reference) as other:
        gate.wait_reached()
        with imgpull.Store(tmp_path / "second") as store, imgpull.Puller(store) as puller:
            pull = puller.submit(reference, progress=events.append)
            until(lambda: any(isinstance(event, Queued) for event in events), "this one waits")
            gate.open()
            pull.result(DEADLINE_SECONDS)
        scripts.finish(other)
    key = next(event.key for event in events if isinstance(event, Queued))
    assert key.startswith(f"image://{registry.address}/library/fake@{image.digest}/")
    assert events == [
        Queued(key),
        Woken(key, found_held=False, slept_seconds=0.0),
        BlobChanged(image.layers[0].digest, pull.result().layers[0].size_bytes, "joined"),
    ]


@pytest.mark.parametrize("killed", [False, True])
def test_who_began_after_a_question_was_sent_asks_again(registry: FakeRegistry, tmp_path: Path, killed: bool) -> None:
    image, gate = build([{"a": b"a"}]), Gate()
    reference = registry.add(image)
    registry.script("HEAD", "/manifests/", lambda request, proper: replace(proper(request), before=(gate,)))
    with scripts.begin(PULL, tmp_path, reference) as other:
        gate.wait_reached()
        with imgpull.Store(tmp_path) as store, imgpull.Puller(store) as puller:
            pull = puller.submit(reference)
            until(lambda: store.keyed_lock.waiters(resolve_key(reference)) == 1, "this one waits for its turn")
            assert registry.count("HEAD") == 1
            if killed:
                other.kill()
            gate.open()
            assert pull.result(DEADLINE_SECONDS).digest == image.digest
        assert killed or outcomes([scripts.finish(other)])[0][0] == image.digest
    assert registry.count("HEAD") == 2


def test_who_waited_for_a_question_that_failed_does_not_queue_for_the_next(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    reference, gate = f"{registry.address}/library/none:latest", Gate()
    registry.script("HEAD", "/manifests/", Reply(404))
    registry.always("HEAD", "/manifests/", Reply(404, before=(gate,)))
    imgpull.Store(tmp_path).close()
    keys = ProcessKeys(tmp_path / "keys.lock")
    with ExitStack() as stack:
        with keys.hold(resolve_key(reference)):
            processes = begin_queued(stack, PROCESSES, tmp_path, reference)
        until(lambda: registry.count("HEAD") == PROCESSES, "all but the first ask at once")
        gate.open()
        ended = outcomes([scripts.finish(process) for process in processes])
    keys.close()
    assert [error for error, _ in ended] == [NotFoundError.__name__] * PROCESSES


@pytest.mark.parametrize("by", ["cancel", "timeout"])
@pytest.mark.parametrize("where", ["resolve", "image"])
def test_a_wait_can_be_given_up(registry: FakeRegistry, tmp_path: Path, where: str, by: str) -> None:
    image = build([{"a": b"a"}])
    reference, cancel, events = registry.add(image), imgpull.Cancellation(), list[Event]()
    if where == "image":
        reference = f"{registry.address}/library/fake@{image.digest}"
    other = ProcessKeys(tmp_path / "keys.lock")
    with imgpull.Store(tmp_path) as store, imgpull.Puller(store) as puller, ExitStack() as stack:
        options = f"{imgpull.Platform.host().normalised}/online/unpack/full/overlay"
        image_key = f"image://{registry.address}/library/fake@{image.digest}/{options}"
        stack.enter_context(other.hold(resolve_key(reference) if where == "resolve" else image_key))
        timeout_seconds = 0.05 if by == "timeout" else None
        pull = puller.submit(reference, cancel=cancel, timeout_seconds=timeout_seconds, progress=events.append)
        if by == "cancel":
            until(lambda: events, "it waits")
            cancel.cancel()
        with pytest.raises(PullCancelledError if by == "cancel" else PullTimeoutError):
            pull.result(DEADLINE_SECONDS)
    other.close()
    assert registry.count() == 0


def test_without_suppression_nobody_waits_for_another_process(registry: FakeRegistry, tmp_path: Path) -> None:
    image = build([{"a": b"a"}])
    reference = registry.add(image)
    other = ProcessKeys(tmp_path / "keys.lock")
    with (
        imgpull.Store(tmp_path) as store,
        imgpull.Puller(store, keyed_lock=imgpull.NoSuppression()) as puller,
        other.hold(resolve_key(reference)),
    ):
        assert puller.pull(reference).digest == image.digest
    other.close()
    assert not (tmp_path / "resolved").exists()


def test_threads_that_come_while_another_process_asks_share_one_question(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    image = build([{"a": b"a"}])
    reference = registry.add(image)
    other = ProcessKeys(tmp_path / "keys.lock")
    with imgpull.Store(tmp_path) as store, imgpull.Puller(store) as puller:
        with other.hold(key := resolve_key(reference)):
            first = puller.submit(reference)
            until(lambda: store.keyed_lock.waiters(key) == 1, "the first waits")
            pulls = [first, *(puller.submit(reference) for _ in range(5))]
        assert {pull.result(DEADLINE_SECONDS).digest for pull in pulls} == {image.digest}
    other.close()
    assert registry.count("HEAD") == 1
