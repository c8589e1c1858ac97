"""Verbs about the local store: no registry is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgpull.cli.output import Output, image_document, shown_size
from imgpull.cli.progress import short
from imgpull.cli.settings import Settings, Verb
from imgpull.errors import ImgpullError

if TYPE_CHECKING:
    from imgpull.oci import Platform
    from imgpull.store.images import Image

__all__ = ["images", "inspect", "rmi", "serve", "tag", "unpack"]

_platform = click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Which one, where the store has several.")


def _in_full(reference: str) -> str:
    from imgpull.reference import Reference

    return str(Reference.parse(reference))


def _read(platform: str | None) -> Platform | None:
    from imgpull.oci import Platform

    return None if platform is None else Platform.parse(platform)


@click.command(cls=Verb, example="imgpull images")
@click.pass_obj
def images(settings: Settings) -> None:
    """List the images in the store."""
    output = Output(settings)
    with settings.open_store() as store:
        found = store.images.list()
    if settings.json:
        output.document([image_document(image) for image in found])
    elif settings.quiet:
        for image in found:
            output.line(image.reference)
    else:
        output.table(("REFERENCE", "PLATFORM", "DIGEST", "LAYERS", "SIZE"), map(_row, found))


def _row(image: Image) -> tuple[str, ...]:
    size = shown_size(image.size_bytes)
    return image.reference, str(image.platform), short(image.digest), str(len(image.layers)), size


@click.command(cls=Verb, example="imgpull inspect redis:7.2", short_help="Show what the store knows of an image.")
@click.argument("reference", metavar="REF")
@_platform
@click.pass_obj
def inspect(settings: Settings, reference: str, platform: str | None) -> None:
    """Show what the store knows of an image: its digests, layers and config."""
    output = Output(settings)
    with settings.open_store() as store:
        document = image_document(store.images.get(reference, _read(platform)))
    if settings.json:
        output.document(document)
        return
    config = document.pop("config")
    layers = document.pop("layers")
    for name, value in document.items():
        output.line(f"{name + ':':<17}{_shown(value)}")
    for name, value in config.items():
        for item in _items(value):
            output.line(f"{name + ':':<17}{item}")
    for layer in layers:
        output.line(f"{'layer:':<17}{layer['digest']}  {shown_size(layer['size_bytes'])}")


def _shown(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _items(value: Any) -> list[str]:
    """A config's value as lines: one for each variable and label, one for a whole command."""
    match value:
        case dict():
            return [_printable(f"{name}={text}") for name, text in value.items()]
        case list() if all("=" in item for item in value):
            return [_printable(item) for item in value]
        case list():
            return [" ".join(_printable(repr(item)) for item in value)]
        case None | "":
            return []
    return [_printable(str(value))]


def _printable(text: str) -> str:
    """An image's own words, which are a stranger's: nothing in them may drive the terminal."""
    return text.encode("unicode_escape").decode() if not text.isprintable() else text


@click.command(cls=Verb, example="imgpull tag redis:7.2 registry.example/mirror/redis:stable")
@click.argument("reference", metavar="REF")
@click.argument("new", metavar="NEW")
@click.pass_obj
def tag(settings: Settings, reference: str, new: str) -> None:
    """Give an image another name; nothing is copied."""
    with settings.open_store() as store:
        store.images.tag(reference, new)
    if settings.json:
        names = {"reference": reference, "new": new}
        Output(settings).document({key: _in_full(name) for key, name in names.items()})


@click.command(cls=Verb, example="imgpull rmi redis:7.2")
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@_platform
@click.pass_obj
def rmi(settings: Settings, references: tuple[str, ...], platform: str | None) -> int:
    """Forget images by name. What no name needs any more stays until it is collected."""
    output = Output(settings)
    wanted = _read(platform)
    code = 0
    removed = []
    with settings.open_store() as store:
        for reference in references:
            try:
                store.images.remove(reference, wanted)
            except ImgpullError as error:
                output.failure(error, where=reference)
                code = max(code, error.exit_code)
            else:
                removed.append(_in_full(reference))
                output.note(f"removed {reference}")
    if settings.json:
        output.document(removed)
    return code


@click.command(
    cls=Verb, example="imgpull unpack redis:7.2 /srv/rootfs", short_help="Write an image's root file system to DIR."
)
@click.argument("reference", metavar="REF")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@_platform
@click.pass_obj
def unpack(settings: Settings, reference: str, directory: Path, platform: str | None) -> None:
    """Write an image's root file system to DIR, as an ordinary directory tree of its own."""
    output = Output(settings)
    with settings.open_store() as store:
        image = store.images.get(reference, _read(platform))
        store.unpack(image, directory)
    if settings.json:
        output.document({"reference": image.reference, "chain_id": image.chain_id, "directory": str(directory)})
    else:
        output.note(f"{image.reference} is in {directory}")


@click.command(
    cls=Verb, example="imgpull serve --addr 127.0.0.1:5000", short_help="Serve the store, read-only, as a registry."
)
@click.option("--addr", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.pass_obj
def serve(settings: Settings, addr: str) -> None:
    """Serve the store, read-only, as a registry, until interrupted. There is no authentication."""
    from imgpull.serve import Server

    address = _address(addr)
    output = Output(settings)
    with settings.open_store() as store, Server(store.root, address) as server, _until_interrupted() as interrupted:
        if settings.json:
            output.document({"address": server.address, "url": server.url, "store": str(store.root)})
        elif settings.quiet:
            output.line(server.address)
        else:
            output.line(f"{server.url} serves {store.root}; Ctrl-C ends it")
        interrupted.wait()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT", param_hint="'--addr'")
    return host.strip("[]") or "127.0.0.1", int(port)


@contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM: how a server ends, so no error. Where a signal is ignored it stays so."""
    import signal

    ended = threading.Event()
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in numbers}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
