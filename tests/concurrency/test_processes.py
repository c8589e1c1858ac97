"""Keys among real processes: each enters alone, none is stuck behind the dead, and a store's work is done once."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

import imgpull
from fakes import scripts
from fakes.images import build
from fakes.registry import FakeRegistry
from fakes.threads import DEADLINE_SECONDS, start, until
from imgpull.events import BlobChanged, Event, Woken
from imgpull.locking import ProcessKeys

PROCESSES, THREADS = 4, 16

COUNT = """
    import threading
    from imgpull.locking import ProcessKeys
    path, counter, threads, rounds, _ = sys.argv[1:]
    keys = ProcessKeys(path)
    def count():
        for _ in range(int(rounds)):
            with keys.hold("the counter"):
                with open(counter) as file:
                    number = int(file.read())
                with open(counter, "w") as file:
                    file.write(str(number + 1))
    workers = [threading.Thread(target=count) for _ in range(int(threads))]
    print("ready", flush=True)
    input()
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    keys.close()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("imgpull")]
    print(len(keys), left)
"""


def test_each_of_many_threads_of_many_processes_is_alone(tmp_path: Path) -> None:
    """A lost update, or one that read half a number, would show in the sum."""
    rounds = 20
    counter = tmp_path / "counter"
    counter.write_text("0")
    said = scripts.run_together(PROCESSES, COUNT, tmp_path / "keys.lock", counter, THREADS, rounds)
    assert said == ["0 []\n"] * PROCESSES
    assert int(counter.read_text()) == PROCESSES * THREADS * rounds


HOLD = """
    from imgpull.locking import ProcessKeys
    keys = ProcessKeys(sys.argv[1])
    with keys.hold("a"):
        print("held", flush=True)
        input()
"""


def test_the_key_of_a_killed_process_goes_to_a_waiter(tmp_path: Path) -> None:
    keys = ProcessKeys(tmp_path / "keys.lock")

    def enter() -> bool:
        with keys.hold("a") as held:
            return held.waited

    with scripts.begin(HOLD, tmp_path / "keys.lock") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiter = start(enter)
        until(lambda: keys.waiters("a") == 1, "one waits")
        holder.kill()
        assert waiter.outcome() is True
    keys.close()


BASE, APP, TOOL, LIB, MORE, LAST = ({f"layer{n}": os.urandom(2_000)} for n in range(6))
IMAGES = {
    "one": [BASE, APP],
    "two": [BASE, APP, TOOL],
    "three": [BASE, LIB],
    "four": [BASE, APP, TOOL, MORE, LAST],
}

PULL = """
    import json, threading
    import imgpull
    from imgpull.events import BlobRequested, LayerChanged, Woken
    root, address, tags, threads, number = sys.argv[1:]
    tags, seen, results = tags.split(","), [], []
    def saw(event):
        if isinstance(event, BlobRequested): seen.append(["asked", event.digest])
        if isinstance(event, LayerChanged) and event.state == "applied": seen.append(["applied", event.chain_id])
        if isinstance(event, Woken): seen.append(["slept" if event.slept_seconds else "woken", event.key])
    with imgpull.Store(root) as store, imgpull.Puller(store) as puller:
        def pull(n):
            image = puller.pull(f"{address}/library/fake:{tags[(n + int(number)) % len(tags)]}", progress=saw)
            results.append([image.digest, [layer.chain_id for layer in image.layers]])
        workers = [threading.Thread(target=pull, args=(n,)) for n in range(int(threads))]
        print("ready", flush=True)
        input()
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        live = len(store.keyed_lock)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("imgpull")]
    print(json.dumps({"seen": seen, "results": results, "live": live, "left": left}))
"""


def test_processes_share_every_blob_and_every_layer(registry: FakeRegistry, tmp_path: Path) -> None:
    built = {tag: build(layers) for tag, layers in IMAGES.items()}
    for tag, image in built.items():
        registry.add(image, tag=tag)
    root = tmp_path / "store"
    said = scripts.run_together(PROCESSES, PULL, root, registry.address, ",".join(IMAGES), THREADS)
    children = [json.loads(line) for line in said]
    assert [(len(child["results"]), child["live"], child["left"]) for child in children] == [(16, 0, [])] * PROCESSES
    seen = Counter((what, name) for child in children for what, name in child["seen"])
    chains = {chain for child in children for _, layers in child["results"] for chain in layers}
    assert len(chains) == 6
    assert {name: count for (what, name), count in seen.items() if what == "applied"} == dict.fromkeys(chains, 1)
    for image in built.values():
        assert registry.count("GET", f"/manifests/{image.digest}") == 1
        for digest in image.blobs:
            assert registry.count("GET", f"/blobs/{digest}") == 1, digest
    assert [name for (what, name) in seen if what == "slept"] == []
    assert not list((root / "ingest").iterdir())


ONE_PULL = """
    import imgpull
    root, reference = sys.argv[1:]
    with imgpull.Store(root) as store, imgpull.Puller(store) as puller:
        print(puller.pull(reference, unpack=False).digest, flush=True)  # another pull than ours, with the same blobs
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_process_waits_for_another_s_blob_and_takes_over_when_it_dies(
    registry: FakeRegistry, tmp_path: Path, killed: bool
) -> None:
    image = build([BASE])
    reference, blob = registry.add(image), image.layers[0].digest
    gate = registry.block(blob, at=100)
    events: list[Event] = []
    with scripts.begin(ONE_PULL, tmp_path, reference) as other:
        gate.wait_reached()
        with imgpull.Store(tmp_path) as store, imgpull.Puller(store) as puller:
            pull = puller.submit(reference, progress=events.append)
            until(lambda: store.keyed_lock.waiters(f"blob://{blob}") == 1, "this process waits for the other's blob")
            assert registry.count("GET", blob) == 1
            if killed:
                other.kill()
            else:
                gate.open()
                assert scripts.finish(other) == f"{image.digest}\n"
            assert pull.result(DEADLINE_SECONDS).digest == image.digest
            gate.open()
    states = [event.state for event in events if isinstance(event, BlobChanged) and event.digest == blob]
    assert (states[-1], registry.count("GET", blob)) == (("fetched", 2) if killed else ("exists", 1))
    assert Woken(f"blob://{blob}", found_held=False, slept_seconds=0.0) in events


def test_blobs_of_our_own_are_fetched_while_every_worker_waits_for_another_process(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    image = build([{f"layer{n}": os.urandom(500)} for n in range(10)])
    reference, blobs = registry.add(image), [layer.digest for layer in image.layers]
    theirs, own = [f"blob://{blob}" for blob in blobs[:9]], blobs[9]
    other = ProcessKeys(tmp_path / "keys.lock")
    with imgpull.Store(tmp_path) as store, imgpull.Puller(store, max_concurrent_fetches=1) as puller:
        with ExitStack() as stack:
            for key in theirs:
                stack.enter_context(other.hold(key))
            pull = puller.submit(reference, unpack=False)
            until(lambda: own in store.content, "the one that nobody else fetches is here")
            assert [store.keyed_lock.waiters(key) for key in theirs] == [1] * 9
        assert pull.result(DEADLINE_SECONDS).digest == image.digest
    assert [registry.count("GET", f"/blobs/{blob}") for blob in blobs] == [1] * 10
    other.close()


def test_a_pull_that_waits_for_another_process_can_be_cancelled(registry: FakeRegistry, tmp_path: Path) -> None:
    image = build([BASE])
    reference, blob = registry.add(image), image.layers[0].digest
    gate = registry.block(blob, at=100)
    with scripts.begin(ONE_PULL, tmp_path, reference) as other:
        gate.wait_reached()
        with imgpull.Store(tmp_path) as store, imgpull.Puller(store) as puller:
            cancel = imgpull.Cancellation()
            pull = puller.submit(reference, cancel=cancel)
            until(lambda: store.keyed_lock.waiters(f"blob://{blob}") == 1, "this process waits for the other's blob")
            cancel.cancel()
            with pytest.raises(imgpull.PullCancelledError):
                pull.result(DEADLINE_SECONDS)
        gate.open()
        assert scripts.finish(other) == f"{image.digest}\n"
    assert registry.count("GET", blob) == 1
