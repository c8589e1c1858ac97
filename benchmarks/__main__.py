"""``python -m benchmarks``: see ``--help`` of each command."""

from __future__ import annotations

from pathlib import Path

import click

IMAGES = Path("benchmarks") / "images"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measures what duplicate suppression is worth, and draws it."""


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=IMAGES, show_default=True)
def images(names: tuple[str, ...], out: Path) -> None:
    """Builds test images (redis golang manylayers zstd demo) as OCI layouts in DIR."""
    from benchmarks.images import ImageBuildError, build

    try:
        build(names, out, click.echo)
    except ImageBuildError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
