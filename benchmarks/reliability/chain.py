"""The chain from scans to an exported model on made-up scans: the stages and the commands a user types for them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
DATASET = "Dataset501_P"
TRAINER = "ReliabilityTrainer"
CASES = 6  # four to train on, one validation, one test case
SHAPE = (16, 96, 96)  # (z, y, x) voxels
QUICK = (
    "-device", "cpu", "--weights", "embedded", "--set", "classifier.epochs=3", "--set", "classifier.image_size=64",
    "--set", "cam.layers=[\"layer2\",\"layer3\"]",
)  # fmt: skip
LABELLING = ("slice_labels", "classifier", "masks", "finish")


@dataclass(frozen=True)
class Stage:
    """One step of the chain.

    Attributes:
        arguments: the installed command, with `{root}` for the chain's folder.
        again: what a user adds when running it again after a kill.
        stock: whether the command is nnU-Net's own.
        environment: what is exported for it.
    """

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()
    stock: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, root: Path, again: bool) -> list[str]:
        """What is started."""
        program, *rest = (text.replace("{root}", str(root)) for text in self.arguments)
        return [str(Path(sys.executable).parent / program), *rest, *(self.again if again else ())]


# training loads data in its own process: background workers have chance of their own; planning refuses a 0
_LOADING = ("nnUNet_n_proc_DA", "0")
_TRAIN = ("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu")
_MODEL = f"{{root}}/nnUNet_results/{DATASET}/{TRAINER}__nnUNetPlans__3d_fullres"
STAGES: tuple[Stage, ...] = (
    *(
        Stage(name, ("nnUNetv2_clisc", "pseudo_label", "-d", "501", *QUICK, "--stage", name))
        for name in LABELLING
    ),
    # other prompts: each mask is made over one that is there with its record, by the command without --stage
    Stage("labels_anew", ("nnUNetv2_clisc", "pseudo_label", "-d", "501", *QUICK, "--set", "prompts.margin=3")),
    Stage("plan", ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", "-np", "1", "-npfp", "1"),
          stock=True),
    Stage("round_1", _TRAIN, again=("--c",), environment=(_LOADING, ("CLISC_STOP_AFTER_ROUND_1", "1"))),
    Stage("s3f", ("nnUNetv2_clisc", "relabel", "-d", "501", "-f", "0", "-tr", TRAINER, "-device", "cpu"),
          environment=(_LOADING,)),
    Stage("round_2", (*_TRAIN, "--c"), environment=(_LOADING,)),
    Stage("predict", ("nnUNetv2_predict", "-d", "501", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER, "-device", "cpu",
                      "--disable_tta", "-npp", "1", "-nps", "1", "-i", f"{{root}}/nnUNet_raw/{DATASET}/imagesTr",
                      "-o", "{root}/predictions"), stock=True),
    Stage("export", ("nnUNetv2_clisc", "export_stock", "--model", _MODEL, "-f", "0", "-o", "{root}/export")),
)  # fmt: skip


def environment(root: Path, stage: Stage | None = None) -> dict[str, str]:
    """Of a chain's commands: its folders, our trainer, one thread, no background workers in training."""
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    fixed = {
        "nnUNet_extTrainer": str(Path(__file__).parent / "ext_trainer"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH", "")))),
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return os.environ | folders | fixed | dict(stage.environment if stage else ())


def convert_command(scans: Path) -> Sequence[str]:
    """How the dataset is made."""
    program = str(Path(sys.executable).parent / "nnUNetv2_clisc")
    return (program, "convert", "folder", "--images", str(scans / "images"), "--split", str(scans / "split.json"),
            "-d", "501", "-n", "P")  # fmt: skip


def fresh_copy(template: Path, root: Path) -> Path:
    """A chain's folder, as it is after `convert`."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root, symlinks=True)
    return root


def forget_preprocessing(root: Path) -> None:
    """What is left to a user when stock nnU-Net does not get over its own half-written files."""
    folder = root / "nnUNet_preprocessed" / DATASET
    for path in folder.iterdir():
        if path.name == "splits_final.json":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
