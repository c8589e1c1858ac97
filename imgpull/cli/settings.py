"""What the global options say. They may stand before the verb or after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from imgpull.store import Store
    from imgpull.store.durability import Durability

__all__ = ["Settings", "Verb", "global_options"]

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """The global options, as far as they have been read."""

    store: Path | None = None
    """None: the library's default place."""
    durability: Durability = "full"
    json: bool = False
    quiet: bool = False
    verbosity: int = 0

    def open_store(self, *, read_only: bool = False) -> Store:
        """The store, for a ``with`` statement."""
        from imgpull import Store

        return Store(self.store, durability=self.durability, read_only=read_only)


def _store(settings: Settings, value: Path) -> None:
    settings.store = value


def _durability(settings: Settings, value: Durability) -> None:
    settings.durability = value


def _json(settings: Settings, value: bool) -> None:
    settings.json = value


def _quiet(settings: Settings, value: bool) -> None:
    settings.quiet = value


def _verbose(settings: Settings, value: int) -> None:
    settings.verbosity += value
    _log_to_stderr(settings.verbosity)


def _log_to_stderr(verbosity: int) -> None:
    import logging

    log = logging.getLogger("imgpull")
    log.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    # The library's own handler is a NullHandler, which is none of these.
    if not any(isinstance(handler, logging.StreamHandler) for handler in log.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(relativeCreated)d ms %(threadName)s %(name)s: %(message)s"))
        log.addHandler(handler)


def _options(hidden: bool) -> list[Callable[[_F], _F]]:
    def option(*names: str, apply: Callable[[Settings, Any], None], **attributes: Any) -> Callable[[_F], _F]:
        def note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
            assert parameter.name is not None
            if context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
                apply(context.ensure_object(Settings), value)

        return click.option(*names, callback=note, expose_value=False, hidden=hidden, **attributes)

    directory = click.Path(path_type=Path, file_okay=False)
    return [
        option("--store", apply=_store, type=directory, metavar="DIR", help="Where the store is ($IMGPULL_HOME)."),
        option(
            "--durability",
            apply=_durability,
            type=click.Choice(["full", "none"]),
            help="'none' syncs nothing: for stores that need not survive a power cut.",
        ),
        option("--json", apply=_json, is_flag=True, help="One JSON document on stdout."),
        option("-q", "--quiet", apply=_quiet, is_flag=True, help="Print names and digests only."),
        option("-v", "--verbose", apply=_verbose, count=True, help="Log to stderr; -vv more, with tracebacks."),
    ]


def global_options(function: _F) -> _F:
    """The global options, shown in the help."""
    for option in reversed(_options(hidden=False)):
        function = option(function)
    return function


class Verb(click.Command):
    """A verb, with an example in its help; takes the global options too, unseen."""

    def __init__(self, *arguments: Any, example: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.example = example
        for option in _options(hidden=True):
            function = option(lambda: None)
            self.params += reversed(function.__click_params__)  # type: ignore[attr-defined]

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():  # write_text would fold a long command
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        formatter.write_paragraph()
        formatter.write_text("The options of 'imgpull --help' may stand here too.")
