"""The fixture that watches every test (tests/conftest.py) sees what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKY = """
import os, threading

def test_thread():
    threading.Thread(target=threading.Event().wait, name="imgpull-left", daemon=True).start()

def test_descriptor():
    os.dup(0)

def test_reused_number():
    os.close(os.open("/dev/null", os.O_RDONLY))

def test_thread_that_ends_soon():
    threading.Timer(0.05, lambda: None).start()

def test_thread_of_somebody_else():
    threading.Thread(target=threading.Event().wait, name="theirs", daemon=True).start()
"""


def test_a_thread_and_a_descriptor_left_behind_fail_their_test(tmp_path: Path) -> None:
    short = CONFTEST.read_text(encoding="utf-8").replace("LEAK_DEADLINE_SECONDS = 3.0", "LEAK_DEADLINE_SECONDS = 0.2")
    (tmp_path / "conftest.py").write_text(short, encoding="utf-8")
    (tmp_path / "test_leaky.py").write_text(LEAKY, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rE", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR ")]
    assert len(errors) == 2, done.stdout
    assert "test_thread " in errors[0]
    assert "imgpull-left" in done.stdout
    assert "test_descriptor " in errors[1]
    assert "5 passed, 2 errors" in done.stdout


def test_the_deadline_that_was_shortened_here_exists() -> None:
    assert "LEAK_DEADLINE_SECONDS = 3.0" in CONFTEST.read_text(encoding="utf-8")
