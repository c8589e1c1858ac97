"""Credential helpers: ``docker-credential-<name> get``, the registry on stdin, JSON on stdout.

Protocol: docker/docker-credential-helpers README. A helper is a program of the user's own choice, but it can hang (a
locked keyring that asks where nobody sees), flood or fail; none of that may take a pull with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from imgpull.errors import UnauthorizedError
from imgpull.registry.credentials import Credential
from imgpull.registry.shared import SharedWork

__all__ = ["HelperPrograms"]

_logger = logging.getLogger("imgpull.registry")

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
"""No dot, slash or capital: the name becomes part of a program's name."""
_SERVER = re.compile(r"[A-Za-z0-9.:/\[\]_-]{1,512}", re.ASCII)
_TIMEOUT_SECONDS = 15.0
"""Cloud helpers take 1–5 s (they start a Python or Java of their own and ask a network)."""
_MAX_OUTPUT_BYTES = 1024 * 1024
_REMEMBERED_SECONDS = 300.0
"""Long enough that a pull of many images asks once, short enough for a password that was just changed."""
_NOT_FOUND = "credentials not found"
_TOKEN_USER = "<token>"


class _HelperError(UnauthorizedError):
    """Why a helper gave nothing; becomes ``Credential.problem``. Shared by those who waited, kept for nobody else."""


@dataclass(frozen=True, slots=True)
class _Answer:
    credential: Credential | None
    until: float
    """Monotonic instant up to which the answer counts."""


class HelperPrograms:
    """Runs helpers: one call per (helper, registry) at a time, and remembers what one said for five minutes."""

    def __init__(
        self,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._answers: SharedWork[_Answer] = SharedWork()

    def get(self, helper: str, server: str) -> Credential | None:
        """What ``docker-credential-<helper>`` has for ``server``; None when it has nothing.

        A helper that can't be run, hangs, floods or answers nonsense gives an empty credential with its ``problem``.
        """
        try:
            return self._answers.get(
                f"credential://{helper}/{server}",
                lambda known: self._clock() < known.until,
                lambda: self._ask(helper, server),
            ).credential
        except _HelperError as error:
            _logger.info("credential helper: %s", error)
            return Credential(problem=str(error))

    def _ask(self, helper: str, server: str) -> _Answer:
        credential = _ask(helper, server, self._timeout_seconds)
        return _Answer(credential, self._clock() + _REMEMBERED_SECONDS)


def _ask(helper: str, server: str, timeout_seconds: float) -> Credential | None:
    if _NAME.fullmatch(helper) is None:
        raise _HelperError(f"credential helper {ascii(helper[:40])} has no proper name; check docker's config.json")
    if _SERVER.fullmatch(server) is None:
        raise _HelperError("the registry's name is nothing to ask a credential helper about")
    program = f"docker-credential-{helper}"
    status, output = _run(program, server, timeout_seconds)
    if status != 0:
        # What it printed may be a secret; the one text that has a meaning is looked for, none is repeated.
        if _NOT_FOUND in output[:1024].decode("utf-8", "replace").lower():
            return None
        raise _HelperError(f"{program} failed with exit status {status}; try: echo {server} | {program} get")
    return _parse(program, output)


def _parse(program: str, output: bytes) -> Credential | None:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _HelperError(f"{program} answered no JSON object; is it a docker credential helper?")
    username, secret = answer.get("Username", ""), answer.get("Secret", "")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise _HelperError(f"{program} answered with something else than a user name and a secret")
    if not secret:
        return None  # docker-credential-pass says "not found" so
    if username == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username=username, password=secret)


def _run(program: str, server: str, timeout_seconds: float) -> tuple[int, bytes]:
    """Exit status and output of ``program get`` fed one line. No shell; its own session, so that all of it can be
    killed: a helper is often a script, and it is the script's child that hangs."""
    deadline = time.monotonic() + timeout_seconds
    try:
        process = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        if shutil.which(program) is None:  # a folder of PATH that may not be searched is EACCES, and no reason to give
            message = f"{program} is not on PATH; install it, or take it out of docker's config.json"
            raise _HelperError(message) from None
        raise _HelperError(f"{program} can't be run ({error.strerror})") from None
    with process:
        try:
            output = _exchange(process, server, deadline)
            status = process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            _kill(process)
            raise _HelperError(
                f"{program} did not answer within {timeout_seconds:g} s; does it wait for input?"
            ) from None
        except BaseException:
            _kill(process)
            raise
    if len(output) > _MAX_OUTPUT_BYTES:
        raise _HelperError(f"{program} answered more than {_MAX_OUTPUT_BYTES} bytes; is it a docker credential helper?")
    return status, output


def _exchange(process: subprocess.Popen[bytes], server: str, deadline: float) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it need not read what it is told
        process.stdin.write(server.encode("ascii") + b"\n")  # far less than a pipe holds: can't block
        process.stdin.close()
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) <= _MAX_OUTPUT_BYTES:
            if not selector.select(max(deadline - time.monotonic(), 0.0)):
                raise subprocess.TimeoutExpired(process.args, 0)
            block = os.read(process.stdout.fileno(), 64 * 1024)
            if not block:
                break
            output += block
        else:
            _kill(process)
    return bytes(output)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
