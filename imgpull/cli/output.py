"""What the command prints: results on stdout, messages on stderr, each message on one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from imgpull.cli.settings import Settings

if TYPE_CHECKING:
    from imgpull.store.images import Image

__all__ = ["Output", "image_document", "one_line", "pinned", "shown_size"]


class Output:
    """Prints as the global options say."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def line(self, text: str) -> None:
        click.echo(text)

    def document(self, value: object) -> None:
        """The one JSON document of this run."""
        click.echo(json.dumps(value, indent=2))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns as wide as they need, two spaces apart."""
        lines = [header, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def note(self, text: str) -> None:
        """Something to know that is no result."""
        if not self.settings.quiet:
            click.echo(one_line(text), err=True)

    def error(self, text: str, where: str = "") -> None:
        """``where``: the reference it is about; named unless the text has its registry and its name already."""
        registry, _, name = where.partition("/")
        if registry not in text or name not in text:
            text = f"{where}: {text.removeprefix(f'{registry}: ')}"
        click.echo(f"imgpull: error: {one_line(text)}", err=True)

    def failure(self, error: BaseException, where: str = "") -> None:
        """The line for ``error``, under its traceback when the user wants to see it."""
        if self.settings.verbosity > 1:
            self.traceback(error)
        self.error(str(error), where)

    def traceback(self, error: BaseException) -> None:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: a registry's words can't drive the terminal."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def shown_size(size_bytes: int) -> str:
    """``size_bytes`` as docker prints it, in decimal units: ``45.1 MB``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.95 or unit == "TB":
            break
        size /= 1000
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def pinned(reference: str, digest: str) -> str:
    """``REF@DIGEST``: the reference that means these bytes for good."""
    return f"{reference.partition('@')[0]}@{digest}"


def image_document(image: Image) -> dict[str, Any]:
    """An image of the store, for JSON."""
    config = image.config
    return {
        "reference": image.reference,
        "digest": image.digest,
        "manifest_digest": image.manifest_digest,
        "chain_id": image.chain_id,
        "platform": str(image.platform),
        "size_bytes": image.size_bytes,
        "content": image.content,
        "snapshotter": image.snapshotter,
        "unpacked": image.unpacked,
        "config": {
            "env": list(config.env),
            "entrypoint": None if config.entrypoint is None else list(config.entrypoint),
            "cmd": None if config.cmd is None else list(config.cmd),
            "workdir": config.workdir,
            "user": config.user,
            "labels": dict(config.labels),
        },
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "chain_id": layer.chain_id,
                "media_type": layer.media_type,
                "size_bytes": layer.size_bytes,
            }
            for layer in image.layers
        ],
    }
