"""A small dose of `make fuzz`, and whether the fuzzer notices what it is there for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability import fuzz, judging
from benchmarks.reliability.damage import Damaged, Wrong
from dataset_conversion.errors import UserError
from tests.helpers.paths import PROJECT


def test_damaged_inputs_give_one_line_or_a_right_result(tmp_path: Path) -> None:
    """In a fresh interpreter: it forks, and threads of other tests would not survive that."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.reliability.fuzz", "--inputs", "80", "--commands", "1"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "fuzz.json"), "--keep", str(tmp_path / "faults")],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    counts = json.loads((tmp_path / "fuzz.json").read_text())["counts"]
    assert sum(counts.values()) == 80
    for kind in ("scan", "mask", "prediction", "slice labels", "settings", "weights", "training checkpoint"):
        assert any(name.startswith(kind) for name in counts)


def _raise(error: BaseException) -> str:
    raise error


def _hold_much() -> str:
    return str(np.ones(2**40, dtype=np.uint8)[-1])


READS: dict[str, tuple[Callable[[], str], str]] = {
    "traceback": (lambda: _raise(KeyError("files")), "KeyError"),
    "wrong": (lambda: _raise(Wrong("other voxels")), "wrong: other voxels"),
    "two lines": (lambda: _raise(UserError("scan.nii: is\nbroken")), "several lines"),
    "no name": (lambda: _raise(UserError("is broken")), "names no file"),
    "crash": (os.abort, "died"),
    "hang": (lambda: time.sleep(30) or "never", "not done after 1 s"),
    "memory": (_hold_much, "memory"),
    "fine": (lambda: _raise(UserError("scan.nii: is broken; replace it")), "replace it"),
    "right": (lambda: "read", "read"),
}


def test_every_way_to_fail_is_a_fault_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(read: Callable[[], str]) -> Callable[[np.random.Generator, Path], Damaged]:
        return lambda rng, folder: Damaged("", folder / "scan.nii", read)

    monkeypatch.setattr(judging, "KINDS", {name: (1.0, kind(read)) for name, (read, _) in READS.items()})
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    numbers: dict[str, int] = {}
    for number in range(200):
        numbers.setdefault(judging.kind_of(number, 0)[0], number)
    outcomes = fuzz.run_fuzz(tmp_path, sorted(numbers.values()), 0, progress=False)
    assert {outcome.kind for outcome in outcomes} == set(READS)
    expected = {"fine": judging.ERROR, "right": judging.RIGHT}
    for outcome in outcomes:
        assert outcome.outcome == expected.get(outcome.kind, judging.FAULT), outcome
        assert READS[outcome.kind][1] in outcome.message


def test_code_in_a_file_that_runs_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "code_has_run"

    def run() -> str:
        marker.touch()
        raise UserError("model.pt: holds code")

    monkeypatch.setattr(
        judging, "KINDS", {"weights": (1.0, lambda rng, folder: Damaged("", Path("model.pt"), run, marker=marker))}
    )
    assert judging.try_input(0, 0, tmp_path).outcome == judging.FAULT
