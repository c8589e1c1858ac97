"""One run of the command: its arguments, its signals, and one line for whatever ends it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from imgpull.cli.app import commands
from imgpull.cli.output import Output
from imgpull.cli.settings import Settings
from imgpull.cli.signals import Interrupted, Signals
from imgpull.errors import ImgpullError

__all__ = ["run"]


def run(arguments: Sequence[str] | None) -> int:
    """See :func:`imgpull.cli.main`."""
    settings = Settings()
    signals = Signals()
    with signals.handled(whole_process=arguments is None):
        try:
            return _run(arguments, settings)
        except Interrupted as interrupted:
            signals.reported()
            Output(settings).failure(interrupted)
            return interrupted.exit_code


def _run(arguments: Sequence[str] | None, settings: Settings) -> int:
    try:
        code = commands.main(args=arguments, prog_name="imgpull", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except SystemExit as ended:  # click ends so when the reader of a pipe has gone
        return ended.code if isinstance(ended.code, int) else 1
    except BrokenPipeError:
        # The interpreter flushes stdout once more on its way out, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, Output(settings))
    return code if isinstance(code, int) else 0


def _report(error: BaseException, output: Output) -> int:
    """One line for ``error``, and the exit code that goes with it."""
    if output.settings.verbosity > 1:
        output.traceback(error)
    match error:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return 2
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else "imgpull"
            message = error.format_message().rstrip(".")
            see = " See" if message.endswith("?") else "; see"
            output.error(f"{message[:1].lower()}{message[1:]}{see} '{path} --help'")
            return 2
        case click.ClickException():
            output.error(error.format_message())
            return error.exit_code
        case ImgpullError():
            output.error(str(error))
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            output.error("interrupted")
            return 130
        case OSError(errno=errno.ENOSPC):  # of stdout: a store's full disk is a StoreError
            output.error(f"the output could not be written: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    output.error(f"internal error: {type(error).__name__}: {error}; please report it with the output of -vv")
    return 1
