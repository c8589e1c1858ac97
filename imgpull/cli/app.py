"""The verbs, collected."""

from __future__ import annotations

from importlib import import_module

import click

from imgpull.cli.settings import global_options

__all__ = ["commands"]

_HOMES = {
    "pull": "pull",
    "images": "local",
    "inspect": "local",
    "tag": "local",
    "rmi": "local",
    "unpack": "local",
    "resolve": "remote",
    "serve": "local",
}
"""The module of each verb, in the order a newcomer meets them in. Only the one that is called is imported."""


class _Commands(click.Group):
    """The verbs, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = _HOMES.get(cmd_name)
        if home is None:
            return None
        verb = getattr(import_module(f"imgpull.cli.{home}"), cmd_name)
        assert isinstance(verb, click.Command)
        return verb


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
