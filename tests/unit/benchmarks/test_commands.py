"""``python -m benchmarks`` with words it does not know: one line that says what there is, and status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["compare", "--arms", "suppression,magic"],
            "no arm is called 'magic': choose from suppression, backoff, convoy",
        ),
        (["compare", "--image", "rediss"], "no image is called 'rediss': choose from demo, redis,"),
        (["scale", "--image", "UPPER:x"], "UPPER"),
        (["scale", "--pulls", "1,many"], "'1,many' is no list of counts"),
        (["scale", "--layers", "0"], "'0' is no list of counts"),
        (["peers", "--peers", "rkt"], "no peer is called 'rkt': choose from imgpull,"),
        (["peers", "--pulls", "1,none"], "'1,none' is no list of counts"),
        (["floor", "--image", "rediss"], "no image is called 'rediss'"),
        (["floor", "--image", "127.0.0.1:1/x:y"], "127.0.0.1:1/x:y is a reference"),
        (["profile", "--image", "127.0.0.1:1/x:y"], "127.0.0.1:1/x:y is a reference"),
        (["shaped", "--image", "127.0.0.1:1/x:y"], "127.0.0.1:1/x:y is a reference"),
        (["shaped", "--rate-mb", "0"], "0 is not in the range x>=0.1"),
        (["shaped", "--latency-ms", "soon"], "'soon' is not a valid float"),
        (["profile", "--rounds", "0"], "0 is not in the range x>=1"),
        (["compare", "--processes", "--arms", "convoy"], "--processes has the arms suppression, backoff"),
        (["scale", "--processes", "1", "--arms", "convoy"], "--processes has the arms suppression, backoff"),
    ],
)
def test_a_word_that_is_not_known_is_a_usage_error(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert said in result.output.splitlines()[-1]


def test_axes_of_layers_and_images_need_a_built_image() -> None:
    result = CliRunner().invoke(main, ["scale", "--image", "127.0.0.1:1/x:y", "--layers", "1"])
    assert result.exit_code == 1
    assert result.output == "Error: --layers makes images of a built one, and 127.0.0.1:1/x:y is a reference\n"


@pytest.mark.parametrize("option", ["--images-dir", "--save"])
@pytest.mark.parametrize("command", ["floor", "profile", "shaped", "peers"])
def test_a_place_that_can_not_be_written_is_one_line(command: str, option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, [command, option, str(tmp_path / "file" / "below")])
    assert result.exit_code == 1
    assert "Not a directory" in result.output.splitlines()[-1]
    assert "Traceback" not in result.output
