"""Peers that are services: one of our own is started on an empty root before each run, and ended by its process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.cost import last_line
from benchmarks.peers.peer import PeerError, Place, Ready, missing_program

__all__ = ["Containerd", "Dockerd"]

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0

_CONTAINERD = """\
version = 2
root = {root}
state = {state}
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = {socket}
"""  # noqa: E501


class _Daemon:
    """What the services share."""

    programs: tuple[str, ...]
    note = "the daemon is up before the clock starts; its time is counted"

    def absent(self, place: Place) -> str:
        if os.geteuid() != 0:
            return "it mounts, which only root may"
        return missing_program(self.programs)


class Containerd(_Daemon):
    """``ctr`` fetches and asks the daemon to unpack into its overlayfs snapshotter."""

    name = "containerd"
    programs = ("containerd", "ctr")

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        # Paths of sockets are short: 107 bytes.
        with tempfile.TemporaryDirectory(prefix="imgpull-peer-") as folder:
            address = Path(folder) / "containerd.sock"
            config = Path(folder) / "config.toml"
            values = {"root": place.directory / "root", "state": Path(folder) / "state", "socket": address}
            config.write_text(_CONTAINERD.format(**{key: json.dumps(str(path)) for key, path in values.items()}))
            temporary = place.directory / "tmp"
            temporary.mkdir()
            with _serving(["containerd", "--config", str(config)], address, {"TMPDIR": str(temporary)}) as pid:
                command = ["ctr", "-a", str(address), "images", "pull", "--plain-http", "--snapshotter", "overlayfs"]
                yield Ready([[[*command, place.reference]]] * place.pulls, daemon=pid)


class Dockerd(_Daemon):
    """docker's own daemon without network, which takes registries on loopback for plain HTTP."""

    name = "dockerd"
    programs = ("dockerd", "docker", "containerd")

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        with tempfile.TemporaryDirectory(prefix="imgpull-peer-") as folder:
            address = Path(folder) / "docker.sock"
            config = Path(folder) / "daemon.json"
            config.write_text("{}")  # not that of the host's own daemon
            command = ["dockerd", "--host", f"unix://{address}", "--data-root", str(place.directory / "root")]
            command += ["--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid", "--config-file", str(config)]
            command += ["--bridge", "none", "--iptables=false", "--storage-driver", "overlay2"]
            with _serving(command, address, {}) as pid:
                pull = ["docker", "-H", f"unix://{address}", "pull", "-q", place.reference]
                yield Ready([[pull]] * place.pulls, daemon=pid)


@contextmanager
def _serving(command: Sequence[str], address: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """A daemon that answers on the Unix socket ``address``, for the block; yields its process id."""
    errors = address.with_suffix(".log")
    with errors.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        _wait_until_listening(process, address, errors)
        yield process.pid
    finally:
        _end(process)


def _wait_until_listening(process: subprocess.Popen[bytes], address: Path, errors: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerError(last_line(errors) or f"the daemon ended with status {process.returncode}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(address))
            except OSError:
                time.sleep(0.02)
            else:
                return
    raise PeerError(f"the daemon does not listen within {_START_SECONDS:.0f} s: {last_line(errors)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the daemon to end; where it does not, its whole session goes."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
