"""nnU-Net's own commands with results in the ablation's folder, and data that differ in their seed alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json, write_json
from pseudo_labeling.run.workspace import ENDING

SEED_STEP = 1000  # far apart: a training's own seeds lie close together


class Trainings:
    """Where trainings of an ablation read and write.

    Args:
        dataset: the user's raw dataset.
        cases: files of the scans to predict by case, one a channel, `.nii.gz`.
        output: the ablation's folder.
        plans: name of the plans.
        fold: of the split.
        device: for nnU-Net.
        configuration: `3d_fullres` or `2d`.

    Raises:
        UserError: nnU-Net's folders are not set, or the dataset is not planned.
    """

    def __init__(
        self,
        dataset: Path,
        cases: Mapping[str, Sequence[Path]],
        output: Path,
        *,
        plans: str,
        fold: int,
        device: str,
        configuration: str,
    ) -> None:
        for name in ("nnUNet_preprocessed", "nnUNet_results"):
            if not os.environ.get(name):
                raise UserError(f"{name}: the environment variable is not set; point it at nnU-Net's folder")
        self.dataset, self.output, self.configuration = dataset, output, configuration
        self.plans, self.fold, self.device = plans, fold, device
        self.preprocessed = Path(os.environ["nnUNet_preprocessed"], dataset.name)
        for needed in (f"{plans}.json", "dataset.json", f"{plans}_{configuration}"):
            if not (self.preprocessed / needed).exists():
                raise UserError(
                    f"{self.preprocessed / needed}: not there; run nnUNetv2_plan_and_preprocess (-p names plans, "
                    f"-c {configuration})"
                )
        self.images = _linked(cases, output / "images")

    def run_command(self, command: Sequence[str], results: Path, seed: int) -> None:
        """Run an installed command of nnU-Net with this seed's data; its output goes to standard error."""
        print("$", *command, file=sys.stderr, flush=True)
        program = Path(sys.executable).parent / command[0]
        with self.environment(results, seed):
            done = subprocess.run([str(program), *command[1:]], stdout=sys.stderr)
        if done.returncode != 0:
            raise UserError(f"{command[0]}: ended with code {done.returncode}; its own message is above")

    @contextmanager
    def environment(self, results: Path, seed: int) -> Iterator[None]:
        """nnU-Net's folders: results of the ablation's own, and data whose `dataset.json` names the seed."""
        before = {name: os.environ[name] for name in ("nnUNet_preprocessed", "nnUNet_results")}
        results.mkdir(parents=True, exist_ok=True)
        os.environ["nnUNet_results"] = str(results)
        if seed > 0:
            os.environ["nnUNet_preprocessed"] = str(self._seeded(seed))
        try:
            yield
        finally:
            os.environ.update(before)

    def _seeded(self, seed: int) -> Path:
        """A folder for `nnUNet_preprocessed` that links the user's data and changes the seed alone."""
        root = self.output / "networks" / f"seed_{seed}" / "preprocessed"
        folder = root / self.dataset.name
        folder.mkdir(parents=True, exist_ok=True)
        for entry in self.preprocessed.iterdir():
            link = folder / entry.name
            if entry.name != "dataset.json" and not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(entry.resolve())
        content = read_json(self.preprocessed / "dataset.json")
        holder = content["clisc"].setdefault("settings", {}) if "clisc" in content else content  # see `FoldData.seed`
        holder["seed"] = holder.get("seed", 0) + SEED_STEP * seed
        write_json(folder / "dataset.json", content)
        return root


def _linked(cases: Mapping[str, Sequence[Path]], folder: Path) -> Path:
    """The scans under nnU-Net's names."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{case}_{n:04d}{ENDING}": path for case, files in cases.items() for n, path in enumerate(files)}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, path in wanted.items():
        if not path.name.lower().endswith(ENDING):
            raise UserError(f"--images {path}: nnU-Net needs {ENDING} here; convert the scans first")
        link = folder / name
        if not link.is_symlink() or link.resolve() != path.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    return folder
