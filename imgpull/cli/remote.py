"""Verbs that ask the registry and store nothing."""

from __future__ import annotations

import click

from imgpull.cli.output import Output, pinned
from imgpull.cli.settings import Settings, Verb
from imgpull.errors import ImgpullError

__all__ = ["resolve"]


@click.command(cls=Verb, example="imgpull resolve redis:7.2", short_help="Ask the registry for the digest of a tag.")
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("--plain-http", is_flag=True, help="Speak HTTP to the registries of these references.")
@click.pass_obj
def resolve(settings: Settings, references: tuple[str, ...], plain_http: bool) -> int:
    """Ask the registry which digest a tag stands for; with several, the exit code is the highest."""
    from imgpull.reference import Reference
    from imgpull.registry import connect

    parsed = [Reference.parse(text) for text in references]
    output = Output(settings)
    registry = connect(plain_http=sorted({reference.domain for reference in parsed}) if plain_http else ())
    documents = []
    code = 0
    for reference in parsed:
        try:
            resolution = registry.resolve(reference)
        except ImgpullError as error:
            output.failure(error, where=str(reference))
            code = max(code, error.exit_code)
            continue
        documents.append(
            {
                "reference": str(reference),
                "digest": resolution.digest,
                "media_type": resolution.media_type,
                "size_bytes": resolution.size_bytes,
            }
        )
        if not settings.json:
            output.line(pinned(str(reference), resolution.digest))
    if settings.json:
        output.document(documents)
    return code
