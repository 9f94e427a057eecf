"""`make bench` in its smallest sizes: every part runs to its headline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench import HEADLINES
from tests.helpers.paths import PROJECT


@pytest.mark.slow
def test_every_part_gives_its_headline(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--quick", "-o", str(tmp_path / "bench.json")],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads((tmp_path / "bench.json").read_text())
    assert measured["quick"] is True
    assert all(measured[key] > 0 for key in HEADLINES)
