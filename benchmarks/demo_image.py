"""The demo's own image: real files of the Python that runs, in layers that change and delete. Needs no network.

On Linux the interpreter's shared libraries are in it too, so ``chroot`` into the unpacked image starts a Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.layers import BuiltLayer, LayerWriter
from benchmarks.layout import LayoutWriter, build_layout, described, recipe_of

__all__ = ["DEMO", "build_demo", "libraries_named"]

DEMO = "demo"
"""The image's name for ``--image``."""

_FORMAT = "1"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY = f"usr/local/lib/{_VERSION}"
_LEFT_OUT = ("__pycache__", "site-packages", "dist-packages", "test", "idlelib", "turtledemo", "lib-dynload")
_HELLO = "import sys\nprint('hello from an image pulled twenty times and fetched once,', sys.version.split()[0])\n"

_Part = tuple[str, Callable[[LayerWriter], None]]


def build_demo(out: Path, say: Callable[[str], None]) -> Path:
    """Builds ``out/demo``, or keeps it when this very Python built it before."""
    directory = out / DEMO
    identity = f"{DEMO} {_FORMAT} {sys.version} {sysconfig.get_path('stdlib')}"
    if recipe_of(directory) == identity:
        say(f"{DEMO}: kept, {directory}")
        return directory
    out.mkdir(parents=True, exist_ok=True)
    say(f"{DEMO}: building an image from {sysconfig.get_path('stdlib')}")
    run = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3", "/app/hello.py"], "WorkingDir": "/app"}
    layers = build_layout(directory, _write, f"{DEMO}:latest", run, identity)
    say(f"{DEMO}: {described(layers)}, {directory}")
    return directory


def _write(layout: LayoutWriter) -> Sequence[BuiltLayer]:
    parts: tuple[_Part, ...] = (
        ("base", _base),
        (f"{_VERSION} and its extension modules", _interpreter),
        ("the standard library", _standard_library),
        ("its test suite and IDLE", _tests),
        ("python -m compileall", _compiled),
        ("remove tests, replace distutils", _tidy),
        ("COPY app", _application),
    )

    def one(part: _Part) -> BuiltLayer:
        comment, fill = part
        with LayerWriter(layout.blobs, "gzip", comment) as writer:
            fill(writer)
            return writer.finish()

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib lets go of the interpreter's lock
        return list(pool.map(one, parts))


def libraries_named(ldd_output: str) -> list[str]:
    """The absolute paths in what ``ldd`` prints: ``libc.so.6 => /lib/…/libc.so.6 (0x…)`` and the loader's own line."""
    return re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)", ldd_output, flags=re.MULTILINE)


def _libraries(program: Path) -> list[str]:
    if shutil.which("ldd") is None:
        return []
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    return libraries_named(done.stdout)


def _interpreter_path() -> Path:
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _base(writer: LayerWriter) -> None:
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/local/bin", "etc", "proc", "root"):
        writer.directory(name)
    writer.directory("tmp", 0o1777)
    for name in ("bin", "lib", "lib64"):
        writer.symlink(name, f"usr/{name}")
    writer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    writer.file("etc/os-release", b'NAME="imgpull demo"\nID=imgpull-demo\nPRETTY_NAME="imgpull demo image"\n')
    for path in _libraries(_interpreter_path()):
        source = Path(os.path.realpath(path))
        name = path.lstrip("/")
        if name.split("/")[0] in ("lib", "lib64"):
            name = f"usr/{name}"
        writer.path(source, name)


def _interpreter(writer: LayerWriter) -> None:
    program = f"usr/local/bin/{_VERSION}"
    writer.path(_interpreter_path(), program)
    writer.hard_link("usr/local/bin/python", program)
    writer.symlink("usr/local/bin/python3", _VERSION)
    modules = Path(sysconfig.get_config_var("DESTSHARED") or _stdlib() / "lib-dynload")
    if modules.is_dir():
        writer.tree(modules, f"{_LIBRARY}/lib-dynload", skip=("__pycache__",))


def _standard_library(writer: LayerWriter) -> None:
    # config-3.x-<platform> holds the static library, bigger than all the rest
    configs = [path.name for path in _stdlib().glob("config-*")]
    writer.tree(_stdlib(), _LIBRARY, skip=(*_LEFT_OUT, *configs))


def _tests(writer: LayerWriter) -> None:
    for name in ("idlelib", "test"):
        if (_stdlib() / name).is_dir():  # a distribution may have packaged them apart
            writer.tree(_stdlib() / name, f"{_LIBRARY}/{name}", skip=("__pycache__",))


def _compiled(writer: LayerWriter) -> None:
    for name in ("", "asyncio", "collections", "email", "encodings", "http", "importlib", "json", "logging", "urllib"):
        source = _stdlib() / name / "__pycache__"
        if source.is_dir():
            writer.tree(source, f"{_LIBRARY}/{name}/__pycache__".replace("//", "/"))


def _tidy(writer: LayerWriter) -> None:
    if (_stdlib() / "test").is_dir():
        writer.whiteout(f"{_LIBRARY}/test")
    for name in ("antigravity.py", "lib2to3"):
        if (_stdlib() / name).exists():
            writer.whiteout(f"{_LIBRARY}/{name}")
    writer.opaque(f"{_LIBRARY}/distutils")
    writer.file(f"{_LIBRARY}/distutils/__init__.py", b'raise ImportError("distutils was taken out of this image")\n')
    writer.file("etc/os-release", b'NAME="imgpull demo"\nID=imgpull-demo\nPRETTY_NAME="imgpull demo image, tidied"\n')


def _application(writer: LayerWriter) -> None:
    writer.file("app/hello.py", _HELLO.encode())
    writer.file("app/grüße/привет.txt", b"names are bytes\n")
    writer.symlink("app/current", "hello.py")
    writer.file("usr/local/bin/hello", b"#!/usr/local/bin/python3\nexec(open('/app/hello.py').read())\n", mode=0o755)
