"""Stages and parts through the installed command: the same labels as one process, also after kills and side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_conversion.errors import UserError
from nnunetv2_clisc.running.labelling import pseudo_label
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.parts import Part, resolve_part
from tests.helpers.commands import Run, convert, files_of, kill_when, label_arguments, program


def stage(name: str, *more: object) -> list[object]:
    return label_arguments(more=["--stage", name, *more])


def part(number: int, count: int = 2) -> list[object]:
    return ["-num_parts", count, "-part_id", number]


def start(arguments: list[object], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program("nnUNetv2_clisc"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )


def side_by_side(name: str) -> None:
    """Both parts of a stage at the same time, as tasks of a Slurm array whose numbers begin at 3."""
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"}
    processes = [start(stage(name), SLURM_ARRAY_TASK_ID=str(task), **array) for task in (3, 4)]
    for number, process in enumerate(processes):
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        assert f"part {number} of 2" in out
        assert "not complete until `nnUNetv2_clisc pseudo_label -d 501 --stage finish`" in out


def same_results(dataset: Path, reference: Path) -> None:
    """Labels, tables, and what dataset.json says of them, byte by byte."""
    assert files_of(dataset / "labelsTr") == files_of(reference / "labelsTr")
    for table in ("slice_labels.csv", "summary.csv"):
        assert (dataset / "clisc" / table).read_bytes() == (reference / "clisc" / table).read_bytes()
    assert (dataset / "dataset.json").read_bytes() == (reference / "dataset.json").read_bytes()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_two_parts_at_the_same_time_equal_one_process(reference: Path, scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    side_by_side("slice_labels")
    clisc(*stage("classifier"))
    assert "masks: done" in clisc(*stage("masks", "-np", 2)).stdout  # a core each
    assert "clisc" not in json.loads((dataset / "dataset.json").read_text())
    out = clisc(*stage("finish")).stdout
    assert all(path.name[:-7] in out for path in (dataset / "labelsTr").iterdir())
    same_results(dataset, reference)
    overlays = {path.name for path in (reference / "clisc" / "overlays").iterdir()}
    assert {path.name for path in (dataset / "clisc" / "overlays").iterdir()} == overlays


def test_killed_parts_run_again_equal_one_process(reference: Path, scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    work = dataset / "clisc"

    def records(name: str) -> Callable[[], bool]:
        return lambda: any((work / name).glob("p*.json"))

    kill_when(stage("slice_labels", *part(0)), records("slice_labels"))
    clisc(*stage("slice_labels", *part(1)))
    clisc(*stage("slice_labels", *part(0)))
    kill_when(stage("classifier"), lambda: (work / "classifier" / "amda_partial.pt").exists())
    clisc(*stage("classifier"))
    kill_when(stage("masks", *part(1)), records("masks"))
    clisc(*stage("masks", *part(0)))
    clisc(*stage("masks", *part(1)))
    for place in ("labelsTr/.partial-123-p00.nii.gz", "clisc/masks/.partial-1-p00.json", ".partial-2-dataset.json"):
        (dataset / place).write_bytes(b"left by a process that was killed while it wrote")
    clisc(*stage("finish"))
    same_results(dataset, reference)
    assert not list(dataset.rglob(".partial-*"))


def quick(name: str, part: Part = Part()) -> object:
    """One stage in this process, with the settings of `label_arguments`."""
    options = LabellingOptions(
        501,
        device="cpu",
        weights="embedded",
        changes=("classifier.epochs=2", "classifier.image_size=64", 'cam.layers=["layer2","layer3"]'),
    )
    parts = (part.count, part.index) if part.count > 1 else (None, None)
    return pseudo_label(options, stage=name, num_parts=parts[0], part_id=parts[1])


def refused(name: str, part: Part = Part()) -> str:
    """The message of a stage that cannot run; always one line."""
    with pytest.raises(UserError) as caught:
        quick(name, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_barriers_name_what_is_missing_and_the_command(reference: Path, scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    assert "5 of 5" in one_line(clisc(*stage("classifier"), ok=False))
    for name in ("classifier", "masks", "finish"):
        error = refused(name)
        assert "5 of 5" in error
        assert "`nnUNetv2_clisc pseudo_label -d 501 --stage slice_labels`" in error
    quick("slice_labels", Part(1, 2))
    error = refused("classifier")
    assert "3 of 5" in error
    assert "p00, p02, p04" in error
    quick("slice_labels")
    for name in ("masks", "finish"):
        assert "`nnUNetv2_clisc pseudo_label -d 501 --stage classifier`" in refused(name)
    assert "clisc" not in json.loads((dataset / "dataset.json").read_text())


def test_finish_finds_a_label_that_was_cut_short_behind_our_back(reference: Path, nnunet: Path) -> None:
    dataset = nnunet / "nnUNet_raw" / reference.name
    shutil.copytree(reference, dataset)
    label = dataset / "labelsTr" / "p03.nii.gz"
    label.write_bytes(label.read_bytes()[:-20])
    error = refused("finish")
    assert "1 of 5" in error
    assert "p03" in error
    assert "--stage masks`" in error
    quick("masks", Part(1, 2))
    assert "clisc" not in json.loads((dataset / "dataset.json").read_text())
    quick("finish")
    same_results(dataset, reference)


def test_broken_scan_fails_its_part_and_not_the_other_cases(scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    bad = dataset / "imagesTr" / "p02_0000.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    error = one_line(clisc(*stage("slice_labels", *part(0)), ok=False))
    assert str(bad) in error
    assert "1 of 3 cases failed (p02)" in error
    assert {path.stem for path in (dataset / "clisc" / "slice_labels").iterdir()} == {"p00", "p04"}
    quick("slice_labels", Part(1, 2))
    assert "1 of 5 cases are missing, changed or made with other settings (p02)" in refused("classifier")
    bad.write_bytes(whole)
    quick("slice_labels")


def test_stages_and_parts_that_do_not_exist_are_refused(scans: Path, nnunet: Path, clisc: Run) -> None:
    convert(clisc, scans)
    for name in ("classifier", "finish"):
        assert "-num_parts" in one_line(clisc(*stage(name, "-num_parts", 2), ok=False))
    assert "-num_parts" in one_line(clisc(*label_arguments(more=part(0)), ok=False))
    assert "part 2 of 2 does not exist" in one_line(clisc(*stage("masks", *part(2)), ok=False))
    assert "error: -np 2: --stage finish" in one_line(clisc(*stage("finish", "-np", 2), ok=False))
    assert "-np 2: shares a CPU; with -num_gpus 1" in one_line(
        clisc(*stage("masks", "-np", 2, "-num_gpus", 1), ok=False)
    )
    assert "-np 999: this process may use" in one_line(clisc(*label_arguments(more=["-np", 999]), ok=False))
    assert "error: -num_gpus 2" in one_line(clisc(*label_arguments(more=["-num_gpus", 2]), ok=False))
    assert "error: -num_gpus 1: --stage finish" in one_line(clisc(*stage("finish", "--num_gpus", 1), ok=False))


def test_more_gpus_than_there_are_are_refused(scans: Path, nnunet: Path, clisc: Run) -> None:
    convert(clisc, scans)
    error = one_line(clisc("pseudo_label", "-d", 501, "--weights", "embedded", "-num_gpus", 99, ok=False))
    assert error.startswith("error: -num_gpus 99: torch sees ")


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_process_per_gpu_labels_every_case(gpus: int, scans: Path, nnunet: Path, clisc: Run) -> None:
    import torch

    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} CUDA devices")
    dataset = convert(clisc, scans)
    arguments = [each if each != "cpu" else "cuda" for each in label_arguments()]
    clisc(*arguments, "-num_gpus", gpus)
    assert len(files_of(dataset / "labelsTr")) == 5
    assert json.loads((dataset / "dataset.json").read_text())["clisc"]["device"] == "cuda"


# ---- which share


def test_parts_share_all_cases_and_split_further() -> None:
    cases = [f"c{number}" for number in range(11)]
    parts = [Part(number, 3) for number in range(3)]
    assert sorted(case for each in parts for case in each.share(cases)) == sorted(cases)
    halves = [half for each in parts for half in each.split(2)]
    assert sorted(case for each in halves for case in each.share(cases)) == sorted(cases)
    assert sorted(case for each in parts[1].split(2) for case in each.share(cases)) == sorted(parts[1].share(cases))


@pytest.mark.parametrize(
    ("flags", "array", "expected"),  # array: task, tasks, number of the first task
    [
        ((None, None), None, Part(0, 1)),
        ((4, 2), (9, 10, 0), Part(2, 4)),
        ((None, None), (5, 3, 4), Part(1, 3)),
        ((3, None), (2, 3, 0), Part(2, 3)),
    ],
)
def test_flags_come_before_the_array_of_slurm(
    flags: tuple[int | None, int | None], array: tuple[int, int, int] | None, expected: Part
) -> None:
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
    environment = dict(zip(names, map(str, array), strict=True)) if array else {}
    assert resolve_part(*flags, environment) == expected


def test_array_with_gaps_is_refused() -> None:
    array = {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"}
    with pytest.raises(UserError, match="SLURM_ARRAY_TASK_ID"):
        resolve_part(None, None, array)
