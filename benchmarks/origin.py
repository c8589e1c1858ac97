"""The registry that images are pulled from, in a process of its own so that its cost is not counted as the puller's.

Debian's docker-registry where it is installed (the registry of record), else :class:`imgpull.serve.Server` on the
layout. Both on a free port of 127.0.0.1; :attr:`Origin.description` says which.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.layout import facts_of

__all__ = ["ROOT", "Kind", "Origin", "OriginError", "Served", "origin", "parse_access_log", "remote_origin"]

Kind = Literal["auto", "registry", "embedded"]

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, from which child processes import this package."""

_START_SECONDS = 20.0
_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  cache: {{blobdescriptor: inmemory}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "{address}"}}
"""
_LOGGED_BLOB = re.compile(r'"GET /v2/\S+/blobs/\S+ HTTP/[0-9.]+" 2\d\d (\d+)')
_LOGGED_HEAD = re.compile(r'"HEAD /v2/\S+/manifests/\S+ HTTP/[0-9.]+" 2\d\d ')


class OriginError(Exception):
    """No registry could be started; the message says why."""


class Served(NamedTuple):
    """What a registry has answered, by its own log."""

    blob_gets: int
    bytes: int
    """Of blobs."""
    manifest_heads: int

    def since(self, before: Served) -> dict[str, int]:
        """As a record's fields."""
        return {
            "blob_gets": self.blob_gets - before.blob_gets,
            "bytes_fetched": self.bytes - before.bytes,
            "manifest_heads": self.manifest_heads - before.manifest_heads,
        }


@dataclass(frozen=True, slots=True)
class Origin:
    """A running registry."""

    description: str
    address: str
    """``host:port``; empty for a registry that was there before."""
    references: tuple[str, ...]
    """What to pull, one for each layout, in order."""
    access_log: Path | None = None

    def served(self) -> Served | None:
        """What was answered until now; None where the registry keeps no log."""
        return parse_access_log(self.access_log.read_text(errors="replace")) if self.access_log else None

    def behind(self, address: str, line: str) -> Origin:
        """The same, asked through a proxy at ``address``; ``line`` describes it."""
        references = tuple(reference.replace(self.address, address, 1) for reference in self.references)
        return replace(self, description=f"{self.description} behind {line}", address=address, references=references)


def parse_access_log(text: str) -> Served:
    """A log of the combined format."""
    sizes = [int(size) for size in _LOGGED_BLOB.findall(text)]
    return Served(len(sizes), sum(sizes), len(_LOGGED_HEAD.findall(text)))


def remote_origin(reference: str) -> Origin:
    """A registry that somebody else runs."""
    return Origin(f"the registry of {reference}", "", (reference,))


@contextlib.contextmanager
def origin(layouts: Sequence[Path], kind: Kind = "auto") -> Iterator[Origin]:
    """Serves ``layouts`` for the block. The embedded server takes one layout only, so more need the registry."""
    programs = all(shutil.which(program) for program in ("docker-registry", "skopeo"))
    if kind == "registry" and not programs:
        raise OriginError("docker-registry and skopeo are not both on PATH: apt-get install docker-registry skopeo")
    if programs and kind != "embedded":
        with _docker_registry(layouts) as running:
            yield running
    elif len(layouts) == 1:
        with _embedded(layouts[0]) as running:
            yield running
    else:
        raise OriginError("several images at once need docker-registry and skopeo on PATH")


@contextlib.contextmanager
def _docker_registry(layouts: Sequence[Path]) -> Iterator[Origin]:
    with tempfile.TemporaryDirectory(prefix="imgpull-registry-") as folder:
        directory = Path(folder)
        address = f"127.0.0.1:{_free_port()}"
        config = directory / "config.yml"
        config.write_text(_CONFIG.format(root=directory / "data", address=address))
        log = directory / "access.log"
        command = ["docker-registry", "serve", str(config)]
        # Its standard error tells of every HEAD for a blob that is still to be pushed.
        with (
            log.open("wb") as output,
            (directory / "errors.log").open("wb") as errors,
            _running(command, stdout=output.fileno(), stderr=errors.fileno()) as process,
        ):
            _wait_until_answering(process, address)
            names = [_push(layout, address) for layout in layouts]
            yield Origin(f"docker-registry {_version()} on {address}", address, tuple(names), log)


def _push(layout: Path, address: str) -> str:
    name = facts_of(layout).name
    source = f"oci:{layout}:{name}"
    target = f"{address}/{name}"
    command = ["skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", source, f"docker://{target}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OriginError(f"skopeo could not push {layout} to {target}: {done.stderr.strip().splitlines()[-1:]}")
    return target


def _version() -> str:
    done = subprocess.run(["docker-registry", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"v?(\d+\.\d+\.\d+)", done.stdout)
    return found.group(1) if found else ""


@contextlib.contextmanager
def _embedded(layout: Path) -> Iterator[Origin]:
    command = [sys.executable, "-m", "benchmarks.origin", str(layout.resolve())]
    with _running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise OriginError(f"the embedded registry did not start on {layout}; its message is above")
        address = str(json.loads(line)["address"])
        yield Origin(f"imgpull.serve on {address}", address, (f"{address}/{facts_of(layout).name}",))


@contextlib.contextmanager
def _running(command: list[str], stdout: int, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child that lives for the block and is ended by its own process id."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_answering(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OriginError(f"docker-registry ended at once with status {process.returncode}")
        connection = http.client.HTTPConnection(address, timeout=1)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise OriginError(f"docker-registry does not answer on {address} within {_START_SECONDS:.0f} s")


def _serve(layout: str) -> None:
    """The child of :func:`_embedded`: serves until its standard input ends, so it can't outlive its parent."""
    from imgpull.serve import Server

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with Server(Path(layout)) as server:
        print(json.dumps({"address": server.address}), flush=True)
        sys.stdin.buffer.read()


if __name__ == "__main__":
    _serve(sys.argv[1])
