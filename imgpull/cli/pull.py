"""``imgpull pull``: several references at once, over one Puller."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from imgpull.cli.output import Output, pinned, shown_size
from imgpull.cli.progress import Display, Lines, Silence, Tracker
from imgpull.cli.settings import Settings, Verb
from imgpull.cli.signals import Interrupted
from imgpull.errors import ImgpullError, InvalidReferenceError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from imgpull.oci import Platform
    from imgpull.orders import Policy
    from imgpull.puller import Puller
    from imgpull.reference import Reference
    from imgpull.store import Store
    from imgpull.store.images import Image

__all__ = ["pull"]

_TOGETHER = 32
"""Pulls submitted at once: a thread each, so a list of a thousand references is worked off through a window."""

_EXAMPLE = """\
imgpull pull redis:7.2
imgpull --store /var/lib/imgpull pull --platform linux/arm64 ghcr.io/acme/api:v3"""


@dataclass(frozen=True, slots=True)
class _Options:
    """The verb's own options, parsed."""

    keep_going: bool
    platform: Platform | None
    policy: Policy
    unpack: bool
    content: str
    plain_http: bool
    max_concurrent_fetches: int | None
    timeout_seconds: float | None

    def puller(self, store: Store, references: Sequence[Reference]) -> Puller:
        from imgpull import Puller

        attributes: dict[str, Any] = {"content": self.content}
        if self.plain_http:
            attributes["plain_http"] = sorted({reference.domain for reference in references})
        if self.max_concurrent_fetches is not None:
            attributes["max_concurrent_fetches"] = self.max_concurrent_fetches
        try:
            return Puller(store, **attributes)
        except ImgpullError:
            raise
        except ValueError as error:  # a value this version does not know what to do with
            raise click.UsageError(str(error), click.get_current_context()) from None


@click.command(cls=Verb, example=_EXAMPLE, short_help="Pull images into the store and unpack them.")
@click.argument("references", nargs=-1, metavar="REF...")
@click.option("--file", type=click.File(encoding="utf-8"), metavar="LIST", help="References, one a line; '-': stdin.")
@click.option("--keep-going", is_flag=True, help="After a failure begin the remaining ones all the same.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Default: this machine's.")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "never", "newer"]),
    default="always",
    show_default=True,
    help="When to ask the registry for an image that is here.",
)
@click.option("--no-unpack", is_flag=True, help="Fetch only.")
@click.option(
    "--content",
    type=click.Choice(["full", "lazy", "drop"]),
    default="full",
    show_default=True,
    help="Blobs kept: all, those that had to be fetched, or none once unpacked. An image here in full stays so.",
)
@click.option("--plain-http", is_flag=True, help="Speak HTTP to the registries of these references.")
@click.option("--max-concurrent-fetches", type=click.IntRange(min=1), metavar="N", help="Blobs fetched at once.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="For each reference.")
@click.pass_obj
def pull(settings: Settings, /, references: tuple[str, ...], file: IO[str] | None, **options: Any) -> int:
    """Pull each REF and unpack it. What others are fetching or unpacking already is joined, not done again.

    With several references, what has begun is finished even when one fails; the exit code is the highest.
    """
    from imgpull.oci import Platform

    texts = [*references, *_listed(file)]
    if not texts:
        raise click.UsageError("name at least one REF, or a file of them with --file", click.get_current_context())
    platform = options.pop("platform")
    parsed = _Options(
        platform=Platform.parse(platform) if platform is not None else None,
        unpack=not options.pop("no_unpack"),
        timeout_seconds=options.pop("timeout"),
        **options,
    )
    output = Output(settings)
    good, code = _parsed(texts, parsed.keep_going, output)
    if not good:
        if settings.json:
            output.document([])
        return code
    with settings.open_store() as store, parsed.puller(store, good) as puller:
        batch = _Batch(puller, parsed, output)
        return max(code, batch.run(good))


def _listed(file: IO[str] | None) -> Iterator[str]:
    """The references in a list: a line each, ``#`` begins a comment."""
    try:
        for line in file or ():
            if text := line.partition("#")[0].strip():
                yield text
    except UnicodeDecodeError:
        raise click.UsageError("the list is not UTF-8 text", click.get_current_context()) from None


def _parsed(texts: Sequence[str], keep_going: bool, output: Output) -> tuple[list[Reference], int]:
    """Every reference is read before anything is fetched: a typing error at the end of a long list shows at once."""
    from imgpull.reference import Reference

    good: list[Reference] = []
    code = 0
    for text in texts:
        try:
            good.append(Reference.parse(text))
        except InvalidReferenceError as error:
            output.error(str(error))
            code = max(code, error.exit_code)
    return ([], code) if code and not keep_going else (good, code)


class _Batch:
    """The pulls of one command: submitted through a window, reported as they end."""

    def __init__(self, puller: Puller, options: _Options, output: Output) -> None:
        from imgpull.locking import Cancellation

        self._puller = puller
        self._options = options
        self._output = output
        self._display = _display(output)
        self._cancel = Cancellation()
        self._pending: dict[Future[Image], tuple[int, Tracker]] = {}
        self._documents: dict[int, dict[str, Any]] = {}
        self._code = 0
        self._held: list[Callable[[], None]] = []

    def run(self, references: Sequence[Reference]) -> int:
        """Pulls them all and returns the exit code."""
        try:
            with self._display.running():
                self._work_off(enumerate(references))
        finally:
            for say in self._held:
                say()
        if self._output.settings.json:
            self._output.document([document for _, document in sorted(self._documents.items())])
        return self._code

    def _work_off(self, waiting: Iterator[tuple[int, Reference]]) -> None:
        """Ctrl-C gives up every call; the work goes on where another process or caller waits for it."""
        from concurrent.futures import FIRST_COMPLETED, wait

        try:
            self._fill(waiting)
            while self._pending:
                done = wait(self._pending, return_when=FIRST_COMPLETED).done
                for future in sorted(done, key=lambda future: self._pending[future][0]):
                    self._finish(future)
                self._fill(waiting)
        except Interrupted as interrupted:
            self._cancel.cancel()
            interrupted.advice = "the next pull goes on from what has been fetched"
            raise

    def _fill(self, waiting: Iterator[tuple[int, Reference]]) -> None:
        """Begin as many as the window takes; none after a failure, unless told to keep going (as make does)."""
        if self._code and not self._options.keep_going:
            return
        for number, reference in islice(waiting, _TOGETHER - len(self._pending)):
            tracker = self._display.track(str(reference))
            future = self._puller.submit(
                str(reference),
                platform=self._options.platform,
                policy=self._options.policy,
                unpack=self._options.unpack,
                timeout_seconds=self._options.timeout_seconds,
                cancel=self._cancel,
                progress=tracker,
            )
            self._pending[future] = number, tracker

    def _finish(self, future: Future[Image]) -> None:
        number, tracker = self._pending.pop(future)
        error = future.exception()
        self._display.finished(tracker, None if error else future.result())
        if error is None:
            image = future.result()
            self._documents[number] = _document(image, tracker)
            if tracker.left_out:
                self._show(lambda: self._output.note(f"{tracker.reference}: unpacked without {tracker.left_out}"))
            self._show(lambda: self._say(image, tracker))
        elif isinstance(error, ImgpullError):
            self._show(lambda: self._output.failure(error, where=tracker.reference))
            self._code = max(self._code, error.exit_code)
        else:
            raise error

    def _show(self, say: Callable[[], None]) -> None:
        """Now, or once the bars are gone: a line printed among them is folded at the terminal's width."""
        if self._display.holds_terminal:
            self._held.append(say)
        else:
            say()

    def _say(self, image: Image, tracker: Tracker) -> None:
        if self._output.settings.json:
            return
        line = pinned(image.reference, image.digest)
        if not self._output.settings.quiet:
            count = len(image.layers)
            line += f" {image.platform}, {count} {'layer' if count == 1 else 'layers'}"
            line += f", {shown_size(image.size_bytes)}, fetched {shown_size(tracker.fetched_bytes)}"
        self._output.line(line)


def _document(image: Image, tracker: Tracker) -> dict[str, Any]:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "manifest_digest": image.manifest_digest,
        "chain_id": image.chain_id,
        "platform": str(image.platform),
        "size_bytes": image.size_bytes,
        "fetched_bytes": tracker.fetched_bytes,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "chain_id": layer.chain_id,
                "state": tracker.outcome(layer.digest),
            }
            for layer in image.layers
        ],
    }


def _display(output: Output) -> Display:
    if output.settings.quiet:
        return Silence()
    if sys.stderr.isatty() and not output.settings.verbosity:
        try:
            from imgpull.cli.bars import Bars
        except ImportError:  # the extra [progress] is not installed
            return Lines(output)
        return Bars()
    return Lines(output)
