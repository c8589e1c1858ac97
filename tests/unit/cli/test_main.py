"""The command as a whole: help, global options, and the ends it can come to."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading

import click
import pytest

from imgpull.cli import main
from imgpull.cli.app import commands
from imgpull.cli.output import one_line, pinned, shown_size
from imgpull.errors import ImgpullError

from .conftest import Run, World, digest

VERBS = ["pull", "images", "inspect", "tag", "rmi", "unpack", "resolve", "serve"]


def every_error(root: type[ImgpullError] = ImgpullError) -> list[type[ImgpullError]]:
    return [root, *(error for kind in root.__subclasses__() for error in every_error(kind))]


def test_verbs_in_order(run: Run) -> None:
    assert list(commands.list_commands(click.Context(commands))) == VERBS
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    assert all(f"\n  {verb} " in ran.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example_of_it(run: Run, verb: str) -> None:
    ran = run(verb, "-h")
    assert ran.code == 0
    example = ran.out.partition("\nExample:\n")[2]
    assert f" {verb}" in example
    assert "--durability" not in ran.out  # taken, and said in the last line, but not repeated for each verb


def test_no_verb_shows_the_help(run: Run) -> None:
    ran = run()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: imgpull ")


def test_usage_error_says_where_to_look(run: Run) -> None:
    assert run("nothing").error == "no such command 'nothing'; see 'imgpull --help'"
    assert run("rmi").error.endswith("see 'imgpull rmi --help'")


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_exit_code_is_the_errors_own(world: World, run: Run, kind: type[ImgpullError]) -> None:
    world.fails("redis", kind("it failed"))
    ran = run("pull", "redis")
    assert ran.code == kind.exit_code
    assert ran.error == "docker.io/library/redis:latest: it failed"


def test_words_of_a_registry_stay_on_one_line(world: World, run: Run) -> None:
    world.fails("redis", ImgpullError("it\r\nfailed\x1b[2J\x00 badly"))
    assert run("pull", "redis").error == "docker.io/library/redis:latest: it failed?[2J? badly"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_anywhere(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, word: str
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr("imgpull.cli.output.Output.table", lambda *_: signal.raise_signal(number))
    ran = run("images")
    assert (ran.code, ran.error) == (code, word)
    assert signal.getsignal(number) is before


def test_signal_that_is_ignored_stays_ignored(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgpull.cli.output.Output.table", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run("images").code == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_no_signal_is_touched(world: World, run: Run) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run("-q", "images").code))
    thread.start()
    thread.join(60)
    assert codes == [0]


def test_reader_of_the_pipe_may_go() -> None:
    script = "import sys; from imgpull.cli import main; sys.exit(main(['--help']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


def test_verbose_logs_to_stderr_once(world: World, run: Run) -> None:
    log = logging.getLogger("imgpull")
    before = len(log.handlers)
    world.gives("redis")
    run("-v", "pull", "redis", "-v")
    assert (log.level, len(log.handlers)) == (logging.DEBUG, before + 1)


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (45_100_000, "45.1 MB"),
        (3 * 10**15, "3000.0 TB"),
    ],
)
def test_shown_size(size_bytes: int, shown: str) -> None:
    assert shown_size(size_bytes) == shown


def test_pinned_names_one_digest() -> None:
    assert pinned("x/y:1", digest("1")) == f"x/y:1@{digest('1')}"
    assert pinned(f"x/y:1@{digest('2')}", digest("1")) == f"x/y:1@{digest('1')}"


def test_one_line() -> None:
    assert one_line(" a\tb\n\n c\u202e ü") == "a b c? ü"


def test_module_and_function_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    command = [sys.executable, "-m", "imgpull", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == capsys.readouterr().out.split()
