"""The verbs, collected."""

from __future__ import annotations

import click

from imgpull.cli.local import images, inspect, rmi, serve, tag, unpack
from imgpull.cli.pull import pull
from imgpull.cli.remote import resolve
from imgpull.cli.settings import global_options

__all__ = ["commands"]


class _Commands(click.Group):
    """Verbs in the order they were added: the order a newcomer meets them in."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from imgpull import __version__

        click.echo(f"imgpull {__version__}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Print the version."
)
@global_options
def commands() -> None:
    """Pull OCI images: every blob fetched once, every layer unpacked once, however many ask."""


for _verb in (pull, images, inspect, tag, rmi, unpack, resolve, serve):
    commands.add_command(_verb)
