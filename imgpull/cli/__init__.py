"""The command ``imgpull``: parsing and printing over the public API, and nothing else.

Exit codes: 0 ok, 2 usage, otherwise the error's own (:mod:`imgpull.errors`), the highest where several references
failed; 130 on Ctrl-C, 143 on SIGTERM; 1 for anything that should not happen, and when the reader of a pipe has gone.
Bad input is one line on stderr; a traceback is shown with ``-vv`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]

_ALLOCATIONS = 50_000
"""Objects between two searches for garbage; CPython's 700 has it search some forty times while modules are imported,
which make none. Some megabytes may lie about instead."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line in ``arguments`` and return its exit code. By default that is ``sys.argv``, and then the
    process is the command's own, which ends with it: what is alive at its end is not searched once more."""
    if arguments is not None:
        return _run(arguments)
    import gc

    gc.set_threshold(_ALLOCATIONS)
    try:
        return _run(None)
    finally:
        gc.freeze()


def _run(arguments: Sequence[str] | None) -> int:
    from imgpull.cli.run import run  # click, 30 ms, and all verbs need it

    return run(arguments)
