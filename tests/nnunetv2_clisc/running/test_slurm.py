"""The chain of jobs without Slurm: which commands in which order, and mistakes in one line."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest
import torch

from dataset_conversion.errors import UserError
from nnunetv2_clisc.cli import _parser
from nnunetv2_clisc.environment import nnunet_device, usable_device
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.slurm import Command, Resources, Training, chain, submit
from tests.helpers.commands import Run

OPTIONS = LabellingOptions(501, device="cuda", weights="embedded", changes=("prompts.margin=3",), seed=4)


def test_chain_goes_from_slice_labels_to_training_with_parts_where_cases_can_be_shared() -> None:
    steps = chain(OPTIONS, 3, Training(gpus=2, plan_arguments=("-np", "2")))
    assert [(step.name, len(step.commands), step.gpus) for step in steps] == [
        ("slice_labels", 3, 1),
        ("classifier", 1, 1),
        ("masks", 3, 1),
        ("finish", 1, 0),
        ("plan", 1, 0),
        ("train", 1, 2),
    ]
    assert steps[2].commands[1][-4:] == ["-num_parts", "3", "-part_id", "1"]
    assert steps[4].commands[0][-2:] == ["-np", "2"]
    assert steps[5].commands[0][:4] == ["nnUNetv2_train", "501", "3d_fullres", "0"]
    assert steps[5].commands[0][-3:] == ["-num_gpus", "2", "--c"]
    pretrained = chain(OPTIONS, 1, Training(train_arguments=("-pretrained_weights", "a.pth")))[-1]
    assert "--c" not in pretrained.commands[0]  # nnU-Net refuses both together
    assert pretrained.environment == {"CLISC_ANEW_IF_CHANGED": "1"}


def test_s3f_in_parts_stands_between_two_trainings() -> None:
    steps = chain(OPTIONS, 1, Training(relabel_parts=2))
    assert [step.name for step in steps[-3:]] == ["round_1", "relabel", "train"]
    assert steps[-3].environment == {"CLISC_STOP_AFTER_ROUND_1": "1", "CLISC_ANEW_IF_CHANGED": "1"}
    assert steps[-3].commands == steps[-1].commands
    assert len(steps[-2].commands) == 2


def test_cpu_chain_asks_for_no_gpu_and_labels_alone_can_be_made() -> None:
    steps = chain(LabellingOptions(501, device="cpu"), 2, Training(trainer=None))
    assert steps[-1].name == "finish"
    assert not any(step.gpus for step in steps)


def test_command_line_of_options_parses_back_to_the_same_options(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    options = LabellingOptions(
        7, "cpu", "paper", "a", "b", "none", table, "public-code", tmp_path / "s.json", ("a.b=1", "c.d=x y"), 3
    )
    parsed = _parser().parse_args([*options.arguments("masks"), "-num_parts", "2"])
    assert (parsed.dataset, parsed.device, parsed.seed, parsed.stage) == (7, "cpu", 3, "masks")
    assert (parsed.weights, parsed.clip_weights, parsed.sam_weights, parsed.classifier_weights) == (
        "paper",
        "a",
        "b",
        "none",
    )
    assert (parsed.image_labels, parsed.settings, parsed.preset) == (table, tmp_path / "s.json", "public-code")
    assert parsed.set == ["a.b=1", "c.d=x y"]


def test_every_job_is_a_command_that_parses() -> None:
    parser: argparse.ArgumentParser = _parser()
    for step in chain(OPTIONS, 2, Training(relabel_parts=2)):
        for words in step.commands:
            if words[0] == "nnUNetv2_clisc":
                parser.parse_args(words[1:])


def test_name_of_the_dataset_becomes_the_number_that_nnunet_takes() -> None:
    for dataset, told in (("Dataset007_P", "Dataset007_P"), (7, "7")):
        steps = chain(LabellingOptions(dataset), 1, Training(relabel_parts=2))
        given = [words[words.index("-d") + 1] for step in steps[:5] for words in step.commands]
        assert given == [told] * 4 + ["7"]
        assert [words[words.index("-d") + 1] for words in steps[6].commands] == ["7", "7"]
        assert {step.commands[0][1] for step in steps if step.commands[0][0] == "nnUNetv2_train"} == {"7"}


def test_job_runs_the_command_of_this_environment_and_fails_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    program = Path(sys.executable).name
    Command([program, "-c", "import os; print(os.environ['A'] + os.environ['HOME'])"], {"A": "told: "})()
    assert capfd.readouterr().out.strip() == f"told: {os.environ['HOME']}"
    for code, expected in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)):
        with pytest.raises(SystemExit) as caught:
            Command([program, "-c", code], {})()
        assert caught.value.code == expected


def test_without_submitit_or_slurm_the_user_is_told(clisc: Run, nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nnunet / "nnUNet_raw" / "Dataset501_P").mkdir()
    with pytest.raises(UserError, match="--sbatch partition"):
        submit(OPTIONS, 2, Training(), Resources(sbatch=("partition",)))
    with pytest.raises(UserError, match="-num_parts"):
        submit(OPTIONS, 0, Training(), Resources())
    with pytest.raises(UserError, match="-device cuda:1: nnU-Net"):
        submit(LabellingOptions(501, device="cuda:1"), 1, Training(), Resources())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'nnunetv2-clisc\[slurm\]'"):
        submit(OPTIONS, 2, Training(), Resources())
    monkeypatch.setitem(sys.modules, "submitit", os)
    monkeypatch.setenv("PATH", str(nnunet))
    with pytest.raises(UserError, match="sbatch and srun are not on PATH"):
        submit(OPTIONS, 2, Training(), Resources())


@pytest.mark.parametrize("device", ["gpu", "0", "", "cuda:99", "cuda:-1", "cuda:a", "cpu:3", "meta", "mps:1"])
def test_device_that_is_none_or_not_there_is_named(device: str) -> None:
    with pytest.raises(UserError, match=rf"-device {device}: .*; use -device cpu"):
        usable_device(device)


def test_devices_that_are_there_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [usable_device(device) for device in (None, "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(UserError, match=r"-device cuda:1: nnU-Net takes no .*CUDA_VISIBLE_DEVICES=1, give cuda"):
        nnunet_device("cuda:1")
    with pytest.raises(UserError, match="-device mps: torch sees no such device here; use -device cpu or cuda"):
        usable_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert usable_device("mps") == "mps"
