"""The installed command: help without torch, and the user's mistakes in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import Run, last_line, program


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["pseudo_label", "--help"],
        ["pseudo_label", "-d", "1", "--stage", "nonsense"],
        ["pseudo_label", "-d", "1", "--stage", "masks", "-num_parts", "2", "-part_id", "2"],
        ["relabel", "-d", "1", "-num_parts", "0"],
        ["submit", "--help"],
        ["convert", "folder", "--help"],
        ["compare", "--help"],
        ["compare"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_help_and_argument_errors_do_not_import_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["nnUNetv2_clisc", *{arguments!r}]
import nnunetv2_clisc.cli as cli
try:
    cli.main()
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, nnunetv2_clisc; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unset_nnunet_paths_are_named(clisc: Run, monkeypatch: pytest.MonkeyPatch, scans: Path) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert "nnUNet_raw" in last_line(clisc("pseudo_label", "-d", 501, ok=False))
    assert "nnUNet_raw" in last_line(clisc("convert", "folder", "--images", scans, "-d", 1, "-n", "A", ok=False))


def test_unknown_dataset_is_named(clisc: Run, nnunet: Path) -> None:
    assert "-d 777" in last_line(clisc("pseudo_label", "-d", 777, "-device", "cpu", ok=False))


def test_missing_cuda_is_named(clisc: Run, nnunet: Path, scans: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    clisc("convert", "folder", "--images", scans / "images", "-d", 501, "-n", "P")
    assert "-device cuda" in last_line(
        clisc("pseudo_label", "-d", 501, "-device", "cuda", "--weights", "embedded", ok=False)
    )


def test_missing_weight_file_is_named(clisc: Run, nnunet: Path, scans: Path, tmp_path: Path) -> None:
    clisc("convert", "folder", "--images", scans / "images", "-d", 501, "-n", "P")
    for arguments in (
        ["--weights", tmp_path / "no.pth"],
        ["--weights", "embedded", "--clip-weights", tmp_path / "no.pt"],
    ):
        assert str(tmp_path / "no.pt") in last_line(
            clisc("pseudo_label", "-d", 501, "-device", "cpu", *arguments, ok=False)
        )


def test_doctor_says_what_to_do(clisc: Run, nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = clisc("doctor", ok=None).stdout.splitlines()
    assert any(line.startswith("ok") and "CLISCTrainer" in line for line in lines)
    assert any(line.startswith("ok") and str(nnunet / "nnUNet_raw") in line for line in lines)
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.setenv("nnUNet_raw", str(nnunet / "nowhere"))
    done = clisc("doctor", ok=None)
    assert done.returncode == 1
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert any("nnUNet_results" in line and "export" in line for line in bad)
    assert any("nowhere" in line and "mkdir" in line for line in bad)


def test_evaluate_prints_and_writes(clisc: Run, scans: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(scans / "labels", tmp_path / "copies")
    out = clisc(
        "evaluate", "--pred", tmp_path / "copies", "--gt", scans / "labels", "--json", tmp_path / "r.json"
    ).stdout
    assert "p00" in out
    methods = json.loads((tmp_path / "r.json").read_text())["methods"]
    assert next(iter(methods.values()))["dsc"]["mean"] == pytest.approx(1)


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{program('nnUNetv2_clisc')} weights list | true"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
