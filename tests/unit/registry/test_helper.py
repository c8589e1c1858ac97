"""Credential helpers: the protocol, and programs that misbehave. Each test writes its own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fakes.threads import Worker, until
from imgpull.registry.credentials import Credential
from imgpull.registry.helper import HelperPrograms

SERVER = "ghcr.io"


def write(home: Path, body: str, name: str = "test", interpreter: str = "/bin/sh") -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.write_text(f"#!{interpreter}\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(clock) -> HelperPrograms:  # type: ignore[no-untyped-def]
    return HelperPrograms(timeout_seconds=10, clock=clock)


def problem(credential: Credential | None) -> str:
    assert credential is not None
    assert credential.empty
    return credential.problem


def test_the_protocol(docker_home: Path, programs: HelperPrograms) -> None:
    write(
        docker_home,
        """cat > "$DOCKER_CONFIG/stdin"; echo "$@" > "$DOCKER_CONFIG/args"
echo '{"ServerURL":"ghcr.io","Username":"me","Secret":"secret"}'""",
    )
    assert programs.get("test", SERVER) == Credential("me", "secret")
    assert (docker_home / "stdin").read_text() == "ghcr.io\n"
    assert (docker_home / "args").read_text() == "get\n"


@pytest.mark.parametrize(
    ("answer", "credential"),
    [
        ('{"Username":"<token>","Secret":"refresh"}', Credential(identity_token="refresh")),
        ('{"Username":"","Secret":""}', None),
        ('{"ServerURL":"","Username":"","Secret":""}', None),
        ("{}", None),
    ],
)
def test_what_answers_mean(
    docker_home: Path, programs: HelperPrograms, answer: str, credential: Credential | None
) -> None:
    write(docker_home, f"echo '{answer}'")
    assert programs.get("test", SERVER) == credential


def test_not_found_is_anonymous(docker_home: Path, programs: HelperPrograms) -> None:
    write(docker_home, "echo 'credentials not found in native keychain'; exit 1")
    assert programs.get("test", SERVER) is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("echo canary-secret; exit 3", "failed with exit status 3"),
        ("kill -9 $$", "failed with exit status -9"),
        ("echo canary-secret", "no JSON object"),
        ("echo '[1]'", "no JSON object"),
        ("true", "no JSON object"),
        ("printf '\\377\\376'", "no JSON object"),
        ("""echo '{"Username":5,"Secret":"canary-secret"}'""", "something else"),
        ("exec yes canary-secret", "more than 1048576 bytes"),
    ],
)
def test_a_failing_helper_is_a_problem_to_tell_later(
    docker_home: Path, programs: HelperPrograms, body: str, says: str
) -> None:
    write(docker_home, body)
    found = problem(programs.get("test", SERVER))
    assert says in found
    assert "docker-credential-test" in found
    assert "canary" not in found


def test_nested_json_does_not_escape(docker_home: Path, programs: HelperPrograms) -> None:
    write(docker_home, "print('[' * 100_000)", interpreter="/usr/bin/env python3")
    assert "no JSON object" in problem(programs.get("test", SERVER))


def test_a_missing_one_names_the_remedy(docker_home: Path, programs: HelperPrograms) -> None:
    assert "not on PATH; install it" in problem(programs.get("desktop", SERVER))


def test_one_that_cannot_be_run(docker_home: Path, programs: HelperPrograms) -> None:
    path = docker_home / "bin" / "docker-credential-test"
    path.write_text("no program")
    path.chmod(0o755)
    assert "can't be run" in problem(programs.get("test", SERVER))


@pytest.mark.parametrize("body", ["sleep 600", "sleep 600 &\nwait", "exec >&-; sleep 600", "(sleep 600) & exit 0"])
def test_a_hanging_one_is_killed_with_its_children(docker_home: Path, body: str) -> None:
    write(docker_home, f'echo $$ > "$DOCKER_CONFIG/pid"; {body}')
    assert "did not answer within 0.5 s" in problem(HelperPrograms(timeout_seconds=0.5).get("test", SERVER))
    pid = int((docker_home / "pid").read_text())
    until(lambda: not members(pid), "the whole group to be dead")


def members(group: int) -> list[str]:
    """The living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(stat.parent.name)
    return found


def test_one_that_does_not_listen(docker_home: Path, programs: HelperPrograms) -> None:
    write(docker_home, """exec <&-; echo '{"Username":"me","Secret":"secret"}'""")
    assert programs.get("test", SERVER) == Credential("me", "secret")


@pytest.mark.parametrize(
    "name",
    [
        "../../evil",
        "/bin/sh",
        "a b",
        "a;touch pwned",
        "$(id)",
        "a\n",
        "",
        "A",
        "-a",
        "a.b",
        "test\0",
        "ä",
        "a" * 300 + "!",
    ],
)
def test_a_hostile_name_is_never_run(
    docker_home: Path, programs: HelperPrograms, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail(f"ran {args}"))
    assert "no proper name" in problem(programs.get(name, SERVER))


@pytest.mark.parametrize("server", ["a\nb", "a b", "", "a\0", "x" * 600, "$(id)"])
def test_nor_is_one_asked_about_a_hostile_registry(
    docker_home: Path, programs: HelperPrograms, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail(f"ran {args}"))
    assert "nothing to ask" in problem(programs.get("test", server))


COUNTING = """echo x >> "$DOCKER_CONFIG/calls"; echo '{"Username":"me","Secret":"secret"}'"""


def calls(home: Path) -> int:
    path = home / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_what_one_said_is_remembered_for_five_minutes(docker_home: Path, programs: HelperPrograms, clock) -> None:  # type: ignore[no-untyped-def]
    write(docker_home, COUNTING)
    for _ in range(3):
        assert programs.get("test", SERVER) == Credential("me", "secret")
    assert calls(docker_home) == 1
    programs.get("test", "quay.io")
    assert calls(docker_home) == 2
    clock.now += 301
    programs.get("test", SERVER)
    assert calls(docker_home) == 3


def test_a_failure_is_not_remembered(docker_home: Path, programs: HelperPrograms) -> None:
    write(docker_home, "exit 1")
    assert problem(programs.get("test", SERVER))
    write(docker_home, COUNTING)
    assert programs.get("test", SERVER) == Credential("me", "secret")


@pytest.mark.parametrize("fails", [False, True])
def test_many_threads_make_one_call(docker_home: Path, programs: HelperPrograms, fails: bool) -> None:
    (docker_home / "fifo").unlink(missing_ok=True)
    write(
        docker_home,
        f"""echo x >> "$DOCKER_CONFIG/calls"
while [ ! -e "$DOCKER_CONFIG/go" ]; do sleep 0.01; done
{"exit 7" if fails else ""}
echo '{{"Username":"me","Secret":"secret"}}'""",
    )
    workers = [Worker(lambda: programs.get("test", SERVER), f"asker-{number}") for number in range(16)]
    for worker in workers:
        worker.start()
    until(lambda: programs._answers._keys.waiters(f"credential://test/{SERVER}") == 15, "fifteen to wait")
    (docker_home / "go").touch()
    results = [worker.done().result for worker in workers]
    assert calls(docker_home) == 1
    if fails:
        assert all(isinstance(found, Credential) and "exit status 7" in found.problem for found in results)
    else:
        assert results == [Credential("me", "secret")] * 16


def test_different_registries_do_not_wait_for_each_other(docker_home: Path, programs: HelperPrograms) -> None:
    write(
        docker_home,
        """read server; : > "$DOCKER_CONFIG/at-$server"
while [ ! -e "$DOCKER_CONFIG/at-a" ] || [ ! -e "$DOCKER_CONFIG/at-b" ]; do sleep 0.01; done
echo '{"Username":"me","Secret":"secret"}'""",
    )
    workers = [Worker(lambda server=server: programs.get("test", server)) for server in ("a", "b")]
    for worker in workers:
        worker.start()
    assert [worker.done().result for worker in workers] == [Credential("me", "secret")] * 2


def test_nothing_is_left_running(docker_home: Path, programs: HelperPrograms) -> None:
    before = threading.active_count()
    write(docker_home, "exec yes")
    programs.get("test", SERVER)
    assert threading.active_count() == before
