"""``python -m benchmarks``: see ``--help`` of each command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.demo_image import DEMO
from benchmarks.recipes import RECIPES

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

IMAGES = Path("benchmarks") / "images"
_BUILT = (DEMO, *RECIPES, "zstd")


def _known_image(_context: click.Context, _parameter: click.Parameter, image: str) -> str:
    """A built image's name, or what can only be a reference: it has a tag, a digest or a path."""
    from imgpull.errors import InvalidReferenceError
    from imgpull.reference import Reference

    if image in _BUILT:
        return image
    if not set(":/@") & set(image):
        raise click.BadParameter(f"no image is called {image!r}: choose from {', '.join(_BUILT)}, or name a reference")
    try:
        Reference.parse(image)
    except InvalidReferenceError as error:
        raise click.BadParameter(str(error)) from None
    return image


def _known_arms(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    from benchmarks.baselines import ARMS

    return _names(text, list(ARMS), "arm")


def _chosen_peers(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[str]:
    from benchmarks.peers import PEERS

    return _names(text or ",".join(PEERS), list(PEERS), "peer")


def _counts(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[int]:
    """``1,5,20``; nothing for an axis that was not asked for."""
    try:
        counts = [int(count) for count in (text or "").split(",") if text]
    except ValueError:
        counts = [0]
    if any(count < 1 for count in counts):
        raise click.BadParameter(f"{text!r} is no list of counts, such as 1,5,20")
    return counts


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no {what} is called {name!r}: choose from {', '.join(known)}")
    return names


_image = click.option(
    "--image", default=DEMO, show_default=True, callback=_known_image, help="A built image's name, or a reference."
)
_images_dir = click.option("--images-dir", type=click.Path(path_type=Path), default=IMAGES, show_default=True)
_arms = click.option("--arms", default="suppression,backoff,convoy", show_default=True, callback=_known_arms)
_repeats = click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
_json = click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout instead of tables.")
_save = click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Append the JSON lines to FILE.")
_seed = click.option("--seed", type=int, help="Of the arms' random sleeps; drawn and written down by default.")
_durability = click.option("--durability", type=click.Choice(["full", "none"]), default="full", show_default=True)

_unsynced = click.option("--durability", type=click.Choice(["full", "none"]), default="none", show_default=True)


class Records:
    """Where records go: kept for the table, printed as lines when asked, appended to a file."""

    def __init__(self, as_json: bool, save: Path | None) -> None:
        self.kept: list[dict[str, Any]] = []
        self._as_json = as_json
        self._save = save
        if save is not None:  # before anything was measured in vain
            try:
                save.open("a").close()
            except OSError as error:
                raise click.ClickException(str(error)) from None

    def emit(self, record: dict[str, Any]) -> None:
        self.kept.append(record)
        line = json.dumps(record)
        if self._as_json:
            click.echo(line)
        if self._save is not None:
            with self._save.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def report(self, tables: Callable[[list[dict[str, Any]]], str]) -> None:
        from benchmarks.report import header_line

        if not self._as_json:
            click.echo(f"\n{header_line(self.kept[0])}\n\n{tables(self.kept)}")


def built(names: Sequence[str], out: Path, say: Callable[[str], None]) -> list[Path]:
    """The layouts of the named images, in one line of error where one can't be built."""
    from benchmarks.images import ImageBuildError, build

    try:
        return build(names, out, say)
    except (ImageBuildError, OSError) as error:
        raise click.ClickException(str(error)) from None


def layouts_of(image: str, images_dir: Path) -> list[Path]:
    """The layout of a named image, built if need be; none for a reference."""
    if image not in _BUILT:
        return []
    return built([image], images_dir, lambda line: click.echo(line, err=True))


def opened_built(image: str, images_dir: Path, durability: str) -> contextlib.AbstractContextManager[Bench]:
    """A bench for a built image; those of other people's registries have no layout to look into."""
    from benchmarks.scenarios import opened, setting_of

    layouts = layouts_of(image, images_dir)
    if not layouts:
        raise click.UsageError(f"it looks into the layers of a built image, and {image} is a reference")
    return opened(setting_of(image, layouts), durability)


def arms_of_processes(arms: Sequence[str]) -> list[str]:
    """Those arms that processes have; says which are left out."""
    from benchmarks.processes import PROCESS_ARMS

    chosen = [arm for arm in arms if arm in PROCESS_ARMS]
    if left_out := [arm for arm in arms if arm not in chosen]:
        click.echo(f"{', '.join(left_out)}: inside one process only, left out of --processes", err=True)
    if not chosen:
        raise click.UsageError(f"--processes has the arms {', '.join(PROCESS_ARMS)}")
    return chosen


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """What goes wrong while measuring, in one line."""
    from benchmarks.measure import MeasureError
    from benchmarks.origin import OriginError
    from benchmarks.scaling import ScaleError
    from benchmarks.volume import VolumeError

    try:
        yield
    except (MeasureError, OriginError, ScaleError, VolumeError) as error:
        raise click.ClickException(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measures what duplicate suppression is worth, and draws it."""


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=IMAGES, show_default=True)
def images(names: tuple[str, ...], out: Path) -> None:
    """Builds test images (redis golang manylayers zstd demo) as OCI layouts in DIR."""
    built(names, out, click.echo)


@main.command()
@_image
@click.option("--pulls", type=click.IntRange(min=1), default=20, show_default=True)
@_arms
@_repeats
@click.option("--processes", is_flag=True, help="Processes of the CLI for threads: the script of containerd's issue.")
@_images_dir
@_durability
@_seed
@_json
@_save
def compare(
    image: str, pulls: int, arms: list[str], repeats: int, processes: bool, images_dir: Path, durability: str,
    seed: int | None, as_json: bool, save: Path | None,
) -> None:  # fmt: skip
    """The seed's table: real, user, sys per arm, and under it the causes."""
    from benchmarks.report import comparison
    from benchmarks.scenarios import opened, setting_of

    records = Records(as_json, save)
    arms = arms_of_processes(arms) if processes else arms
    setting = setting_of(image, layouts_of(image, images_dir))
    with failing(), opened(setting, durability, seed=seed) as bench:
        records.emit(bench.header())
        bench.compare(arms, pulls, repeats, processes=processes, timeline=True, emit=records.emit)
    records.report(comparison)


@main.command()
@_image
@click.option("--pulls", callback=_counts, help="How many at once.  [default: 1,5,10,20,50,100,1000]")
@click.option("--layers", callback=_counts, help="How many of the image's layers, such as 1,10,40 of manylayers.")
@click.option("--images", callback=_counts, help="How many images upon one base, such as 1,2,5,10.")
@click.option("--processes", callback=_counts, help="How many processes of the CLI, such as 1,5,20.")
@click.option(
    "--callers", type=click.IntRange(min=1), default=5, show_default=True, help="Of each image, on those axes."
)
@_arms
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True)
@_images_dir
@_durability
@_seed
@_json
@_save
def scale(
    image: str, arms: list[str], repeats: int, callers: int, images_dir: Path, durability: str, seed: int | None,
    as_json: bool, save: Path | None, **axes: list[int],
) -> None:  # fmt: skip
    """How the cost grows, one axis after another; on those of layers and images, --callers pull each image at once.

    An old arm stops where it would take minutes.
    """
    from benchmarks.report import growth
    from benchmarks.scaling import AXES, Scale
    from benchmarks.scenarios import opened, setting_of

    if axes["processes"]:
        arms_of_processes(arms)
    if not any(axes.values()):
        axes["pulls"] = [1, 5, 10, 20, 50, 100, 1000]
    records = Records(as_json, save)
    setting = setting_of(image, layouts_of(image, images_dir))
    with failing():
        made = Scale(setting, partial(opened, durability=durability, seed=seed), arms, repeats, records.emit, callers)
        for axis in AXES:
            if axes[axis]:
                made.run(axis, axes[axis])
    records.report(growth)


@main.command()
@_image
@click.option("--pulls", default="1", show_default=True, callback=_counts, help="How many at once, such as 1,20.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--peers", "names", callback=_chosen_peers, help="Some of them, by name, instead of all.")
@click.option("--cold", is_flag=True, help="Drop the page cache before each pull, which only root may.")
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=1), default=600.0, show_default=True)
@_images_dir
@_json
@_save
def peers(
    image: str, pulls: list[int], rounds: int, names: list[str], cold: bool, timeout_seconds: float, images_dir: Path,
    as_json: bool, save: Path | None,
) -> None:  # fmt: skip
    """The same pull by every other tool found on PATH, interleaved, as ratios to imgpull's."""
    from benchmarks.peers import PEERS
    from benchmarks.peers.rounds import Conditions, Rounds, versions_of
    from benchmarks.peers.table import peers_table
    from benchmarks.scenarios import layer_facts, opened, setting_of

    records = Records(as_json, save)
    chosen = [PEERS[name] for name in names]
    layouts = layouts_of(image, images_dir)
    with failing(), opened(setting_of(image, layouts), "full", "registry" if layouts else "auto") as bench:
        records.emit({**bench.header(), "peers": versions_of(chosen)})
        conditions = Conditions(timeout_seconds, cold)
        made = Rounds(bench.setting, bench.served, bench.volume, layer_facts(layouts), conditions)
        made.run(chosen, pulls or [1], rounds, records.emit)
    records.report(peers_table)


@main.command()
@_image
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@_images_dir
@_unsynced
@_json
@_save
def floor(image: str, rounds: int, images_dir: Path, durability: str, as_json: bool, save: Path | None) -> None:
    """What the same work must cost here at least, stage by stage, and imgpull's library call ÷ that."""
    from benchmarks.floor.run import Floor
    from benchmarks.floor.table import floor_table

    records = Records(as_json, save)
    with failing(), opened_built(image, images_dir, durability) as bench:
        records.emit(bench.header())
        Floor(bench, bench.setting.layouts[0]).run(rounds, records.emit)
    records.report(floor_table)


@main.command()
@_image
@click.option("--latency-ms", type=click.FloatRange(min=0), default=20.0, show_default=True, help="There and back.")
@click.option(
    "--rate-mb", type=click.FloatRange(min=0.1), default=50.0, show_default=True, help="10**6 bytes a second."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--peers", "names", callback=_chosen_peers, help="Some of them, by name, instead of all.")
@_images_dir
@_json
@_save
def shaped(
    image: str, latency_ms: float, rate_mb: float, rounds: int, names: list[str], images_dir: Path, as_json: bool,
    save: Path | None,
) -> None:  # fmt: skip
    """Pulls through a line of some latency and rate: how long after the last byte the image is ready."""
    from benchmarks.peers import PEERS
    from benchmarks.peers.rounds import Rounds, versions_of
    from benchmarks.scenarios import layer_facts
    from benchmarks.shaped.proxy import Line, proxy
    from benchmarks.shaped.run import ShapedRounds
    from benchmarks.shaped.table import shaped_table

    records = Records(as_json, save)
    chosen, line = [PEERS[name] for name in names], Line(latency_ms / 1000, rate_mb * 1e6)
    with failing(), opened_built(image, images_dir, "full") as bench, proxy(bench.served.address, line) as before:
        served = bench.served.behind(before.address, line.description)
        records.emit({**bench.header(), "origin": served.description, "peers": versions_of(chosen)})
        made = Rounds(bench.setting, served, bench.volume, layer_facts(bench.setting.layouts))
        ShapedRounds(made, before, line).run(chosen, rounds, records.emit)
    records.report(shaped_table)


@main.command()
@_image
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@_images_dir
@_unsynced
@_json
@_save
def profile(image: str, rounds: int, images_dir: Path, durability: str, as_json: bool, save: Path | None) -> None:
    """Where the wall, processor and interpreter-lock time of a library pull go, and its system calls."""
    from benchmarks.profiling.run import Profile
    from benchmarks.profiling.table import profile_table

    records = Records(as_json, save)
    with failing(), opened_built(image, images_dir, durability) as bench:
        records.emit(bench.header())
        Profile(bench, bench.setting.layouts[0]).run(rounds, records.emit)
    records.report(profile_table)


@main.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE.jsonl")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), show_default=True)
def plot(results: Path, out: Path) -> None:
    """Draws growth curves, and the timeline of who waited on whom, arm beside arm."""
    from benchmarks.plot import PlotError
    from benchmarks.plot import plot as draw

    try:
        for picture in draw(results, out):
            click.echo(str(picture))
    except PlotError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--pulls", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"), show_default=True)
def demo(pulls: int, out: Path) -> None:
    """One image pulled twenty times at once, with suppression and with back-off, and five times with the convoy."""
    from benchmarks.demo import run_demo

    run_demo(pulls, out, click.echo)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
