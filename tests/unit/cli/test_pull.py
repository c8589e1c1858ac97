"""``imgpull pull`` over a puller that does what the test says."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from imgpull.cli.progress import Silence, Tracker
from imgpull.errors import DigestMismatchError, NotFoundError, OfflineError, PullCancelledError
from imgpull.events import BlobAdvanced, BlobChanged, BlobRequested, EventSink, LayerChanged, LeftOut, Resolved
from imgpull.oci import Platform
from imgpull.store.images import Image

from .conftest import Call, Run, World, digest, make_image

REDIS = "docker.io/library/redis:7.2"


def events(*sent: Any) -> Any:
    """A script that sends these events and succeeds."""

    def script(say: EventSink, call: Call) -> Image:
        for event in sent:
            say(event)
        return make_image(call.reference)

    return script


def test_what_is_not_given_is_left_to_the_library(world: World, run: Run) -> None:
    world.gives("redis:7.2")
    assert run("pull", "redis:7.2").code == 0
    assert world.store_arguments == [(None, "full", False)]
    assert world.puller_arguments == [{"content": "full"}]
    arguments = world.calls[0].arguments
    arguments.pop("cancel")
    assert arguments == {"platform": None, "policy": "always", "unpack": True, "timeout_seconds": None}


def test_options_arrive(world: World, run: Run, tmp_path: Path) -> None:
    world.gives("ghcr.io/acme/api:v3", "host:5000/x")
    arguments = ["--platform", "linux/arm64", "--policy", "missing", "--no-unpack", "--content", "lazy", "--plain-http"]
    arguments += ["--max-concurrent-fetches", "3", "--timeout", "1.5", "ghcr.io/acme/api:v3", "host:5000/x"]
    assert run("--store", str(tmp_path), "--durability", "none", "pull", *arguments).code == 0
    assert world.store_arguments == [(tmp_path, "none", False)]
    assert world.puller_arguments == [
        {"content": "lazy", "plain_http": ["ghcr.io", "host:5000"], "max_concurrent_fetches": 3}
    ]
    assert world.pulled == ["ghcr.io/acme/api:v3", "host:5000/x:latest"]
    sent = world.calls[0].arguments
    assert sent["platform"] == Platform.parse("linux/arm64")
    assert (sent["policy"], sent["unpack"], sent["timeout_seconds"]) == ("missing", False, 1.5)
    assert sent["cancel"] is world.calls[1].arguments["cancel"]


def test_global_options_may_follow_the_verb(world: World, run: Run, tmp_path: Path) -> None:
    world.gives("redis:7.2")
    ran = run("pull", "-q", "--store", str(tmp_path), "redis:7.2", "--durability", "none")
    assert ran.out == f"{REDIS}@{digest('1')}\n"
    assert ran.err == ""
    assert world.store_arguments == [(tmp_path, "none", False)]


def test_json_is_the_list_of_the_contract(world: World, run: Run) -> None:
    world.pulls(
        "redis:7.2",
        events(
            Resolved(REDIS, digest("1")),
            BlobChanged(digest("a"), 1000, "waiting"),
            BlobChanged(digest("a"), 1000, "fetching"),
            BlobRequested(digest("a"), "docker.io", 300),  # an earlier attempt's partial
            BlobChanged(digest("a"), 1000, "fetching"),  # the registry began from zero
            BlobAdvanced(digest("a"), 500),
            BlobRequested(digest("a"), "docker.io", 500),
            BlobAdvanced(digest("a"), 500),
            BlobChanged(digest("a"), 1000, "fetched"),
            BlobChanged(digest("b"), 1000, "waiting"),
            BlobChanged(digest("b"), 1000, "joined"),
            BlobChanged(digest("b"), 1000, "fetching"),  # told to everybody on board
            BlobRequested(digest("b"), "docker.io", 0),
            BlobAdvanced(digest("b"), 1000),
            BlobChanged(digest("b"), 1000, "fetched"),
        ),
    )
    ran = run("--json", "pull", "redis:7.2")
    image = make_image("redis:7.2")
    assert ran.document == [
        {
            "reference": REDIS,
            "digest": image.digest,
            "manifest_digest": image.manifest_digest,
            "chain_id": image.chain_id,
            "platform": "linux/amd64",
            "size_bytes": 45_100_000,
            "fetched_bytes": 1000,  # neither what was there nor what was joined
            "layers": [
                {"digest": digest("a"), "diff_id": digest("a"), "chain_id": digest("a"), "state": "fetched"},
                {"digest": digest("b"), "diff_id": digest("b"), "chain_id": digest("b"), "state": "joined"},
            ],
        }
    ]


def test_layers_nobody_spoke_of_exist(world: World, run: Run) -> None:
    world.pulls("redis:7.2", events(BlobChanged(digest("b"), 1000, "skipped")))
    document = run("--json", "pull", "redis:7.2").document[0]
    assert [layer["state"] for layer in document["layers"]] == ["exists", "skipped"]
    assert document["fetched_bytes"] == 0


def test_plain_lines_say_what_came_to_its_end(world: World, run: Run) -> None:
    world.pulls(
        "redis:7.2",
        events(
            Resolved(REDIS, digest("1")),
            BlobChanged(digest("1"), 0, "fetched"),  # the manifest
            BlobChanged(digest("a"), 1000, "fetching"),
            BlobRequested(digest("a"), "docker.io", 0),
            BlobAdvanced(digest("a"), 1000),
            BlobChanged(digest("a"), 1000, "fetched"),
            BlobChanged(digest("b"), 1000, "joined"),
            BlobChanged(digest("b"), 1000, "fetched"),
            LayerChanged(digest("a"), digest("a"), "unpacking"),
            LayerChanged(digest("a"), digest("a"), "applied"),
        ),
    )
    ran = run("pull", "redis:7.2")
    assert ran.err.splitlines() == [
        f"{REDIS}: resolved to {digest('1')}",
        f"{REDIS}: aaaaaaaaaaaa fetched (1.0 kB)",
        f"{REDIS}: bbbbbbbbbbbb joined (1.0 kB)",
        f"{REDIS}: aaaaaaaaaaaa unpacked",
    ]
    assert ran.out == f"{REDIS}@{digest('1')} linux/amd64, 2 layers, 45.1 MB, fetched 1.0 kB\n"


def test_what_was_left_out_is_said_once(world: World, run: Run) -> None:
    left_out = [LeftOut(digest(digit), digest(digit), (("owners (not root)", 5),)) for digit in "ab"]
    world.pulls("redis:7.2", events(*left_out))
    assert run("pull", "redis:7.2").err == f"{REDIS}: unpacked without 10 owners (not root)\n"
    assert run("pull", "-q", "redis:7.2").err == ""


def test_several_references_give_the_highest_code_and_a_line_each(world: World, run: Run) -> None:
    world.gives("good")
    world.fails("missing", NotFoundError("registry says MANIFEST_UNKNOWN"))
    world.fails("wrong", DigestMismatchError("docker.io/library/wrong:latest: other content"))
    ran = run("pull", "-q", "good", "missing", "wrong")
    assert ran.code == 5
    assert ran.out.splitlines() == [f"docker.io/library/good:latest@{digest('1')}"]
    assert sorted(ran.err.splitlines()) == [
        "imgpull: error: docker.io/library/missing:latest: registry says MANIFEST_UNKNOWN",
        "imgpull: error: docker.io/library/wrong:latest: other content",
    ]


def test_json_lists_what_succeeded(world: World, run: Run) -> None:
    world.gives("good")
    world.fails("missing", NotFoundError("no"))
    ran = run("--json", "pull", "missing", "good")
    assert ran.code == 3
    assert [document["reference"] for document in ran.document] == ["docker.io/library/good:latest"]


def test_json_keeps_the_order_of_the_references(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_ends_first(_: Silence, tracker: Tracker, image: Image | None) -> None:
        if tracker.reference == "docker.io/library/second:latest":
            world.calls[0].future.set_result(make_image("first"))

    monkeypatch.setattr(Silence, "finished", second_ends_first)
    world.pulls("first", lambda say, call: None)
    world.gives("second")
    document = run("--json", "-q", "pull", "first", "second").document
    assert [entry["reference"] for entry in document] == [
        "docker.io/library/first:latest",
        "docker.io/library/second:latest",
    ]


@pytest.mark.parametrize("keep_going", [True, False])
def test_a_long_list_goes_through_a_window(world: World, run: Run, tmp_path: Path, keep_going: bool) -> None:
    names = [f"image{number}" for number in range(100)]
    world.gives(*names)
    world.fails("image3", OfflineError("not here"))
    (tmp_path / "list").write_text("# a list\n\n" + "".join(f"{name}  # why\n" for name in names))
    ran = run("pull", "-q", "--file", str(tmp_path / "list"), *(["--keep-going"] if keep_going else []))
    assert ran.code == 7
    # What had begun was finished, and nothing was begun after the failure.
    assert len(world.calls) == (100 if keep_going else 32)
    assert len(ran.out.splitlines()) == len(world.calls) - 1


def test_malformed_reference_in_a_list_stops_it_before_it_begins(world: World, run: Run) -> None:
    world.gives("good")
    ran = run("pull", "good", "no good")
    assert (ran.code, world.calls, world.store_arguments) == (2, [], [])
    assert "'no good'" in ran.error
    ran = run("pull", "-q", "--keep-going", "no good", "good")
    assert (ran.code, world.pulled) == (2, ["docker.io/library/good:latest"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one REF"),
        (["--file", "/nowhere/list"], "/nowhere/list"),
        (["--policy", "sometimes", "x"], "sometimes"),
        (["--max-concurrent-fetches", "0", "x"], "0 is not in the range"),
        (["--timeout", "-1", "x"], "-1.0 is not in the range"),
        (["--timeout", "soon", "x"], "'soon' is not a valid float"),
        (["--platform", "linux/amd64/v2/x", "x"], "linux/amd64/v2/x"),
        (["--platform", "", "x"], "platform"),
        (["--unknown", "x"], "--unknown"),
        (["--store", "/etc/passwd", "x"], "/etc/passwd"),
    ],
)
def test_usage_errors_are_one_line(world: World, run: Run, arguments: list[str], words: str) -> None:
    ran = run("pull", *arguments)
    assert ran.code == 2
    assert words in ran.error
    assert world.store_arguments == []


def test_list_that_is_no_text(world: World, run: Run, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"redis\n\xff\xfe\n")
    ran = run("pull", "--file", str(tmp_path / "list"))
    assert (ran.code, world.calls) == (2, [])
    assert "not UTF-8" in ran.error


def test_ctrl_c_cancels_every_call_and_says_so_in_one_line(world: World, run: Run) -> None:
    def waits(say: EventSink, call: Call) -> None:
        call.cancel.add_callback(lambda: call.future.set_exception(PullCancelledError("cancelled by the caller")))

    def interrupts(say: EventSink, call: Call) -> None:
        waits(say, call)
        signal.raise_signal(signal.SIGINT)

    world.pulls("one", waits)
    world.pulls("two", interrupts)
    ran = run("pull", "one", "two")
    assert ran.code == 130
    assert ran.error.startswith("interrupted")
    assert world.calls[0].future.done()


def test_what_the_library_does_not_take_is_a_usage_error(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **arguments: object) -> None:
        raise ValueError(f"content={arguments['content']} comes later")

    monkeypatch.setattr("imgpull.Puller", refuse)
    ran = run("pull", "--content", "drop", "redis")
    assert (ran.code, ran.error) == (2, "content=drop comes later; see 'imgpull pull --help'")


def test_bars_are_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    import sys

    from imgpull.cli.bars import Bars
    from imgpull.cli.output import Output
    from imgpull.cli.progress import Lines, Silence
    from imgpull.cli.pull import _display
    from imgpull.cli.settings import Settings

    assert isinstance(_display(Output(Settings())), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(_display(Output(Settings())), Bars)
    assert isinstance(_display(Output(Settings(quiet=True))), Silence)
    assert isinstance(_display(Output(Settings(verbosity=1))), Lines)
    monkeypatch.setitem(sys.modules, "imgpull.cli.bars", None)
    assert isinstance(_display(Output(Settings())), Lines)


def test_traceback_is_shown_with_vv_alone(world: World, run: Run) -> None:
    world.fails("missing", NotFoundError("gone"))
    assert "Traceback" not in run("-v", "pull", "missing").err
    ran = run("-vv", "pull", "missing")
    assert "NotFoundError: gone" in ran.err
    assert ran.err.endswith("imgpull: error: docker.io/library/missing:latest: gone\n")


def test_fault_of_ours_is_one_line_too(world: World, run: Run) -> None:
    world.fails("broken", TypeError("two\nlines"))
    ran = run("pull", "broken")
    assert ran.code == 1
    assert ran.error == "internal error: TypeError: two lines; please report it with the output of -vv"
