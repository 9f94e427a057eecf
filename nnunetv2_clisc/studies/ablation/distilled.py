"""The four combinations of UM-SAM's losses, each a training of its own, on the labels of any route."""

from __future__ import annotations

import shutil
from pathlib import Path

from dataset_conversion.files import read_json, sha256_of, write_json
from nnunetv2_clisc.studies.ablation.trainings import Trainings
from nnunetv2_clisc.training.fold import FoldFolder
from pseudo_labeling.run.workspace import key_of

CONFIGURATION = "2d"
BASE, NAMED = "DistillationTrainer", "Distillation"  # ours; part of the name of each, also of a user's own


class DistilledRuns(Trainings):
    """Train and predict with a variant of the `DistillationTrainer`.

    Args:
        dataset, cases, output, plans, fold, device: as of :class:`Trainings`.
        trainer: the one with all losses, whose name the variants begin with; `CLISCTrainer` stands for ours, and
            `CLISCTrainer_small` for our small one.
    """

    def __init__(
        self, dataset: Path, cases: dict[str, Path], output: Path, *, trainer: str, plans: str, fold: int, device: str
    ) -> None:
        super().__init__(dataset, cases, output, plans=plans, fold=fold, device=device, configuration=CONFIGURATION)
        self.base = trainer if NAMED in trainer else f"{BASE}_small" if "_small" in trainer else BASE

    def predicted(self, variant: str, seed: int) -> Path:
        """Folder with the masks of the scans, by a network that is trained now or was by an earlier run.

        Args:
            variant: `""`, `_plain`, `_noFeature` or `_noContrast`.
            seed: number of the repetition.
        """
        trainer = f"{self.base}{variant}"
        results = self.output / "networks" / f"seed_{seed}" / "distilled"
        fold = FoldFolder(
            results / self.dataset.name / f"{trainer}__{self.plans}__{CONFIGURATION}" / f"fold_{self.fold}", rounds=1
        )
        place = [self.dataset.name, CONFIGURATION, str(self.fold)]
        state = fold.read_state()
        if state is None or not state.finished:
            command = ["nnUNetv2_train", *place, "-tr", trainer, "-p", self.plans, "-device", self.device]
            self.run_command(command, results, seed)
        folder = self.output / "predictions" / trainer / f"seed_{seed}"
        scans = sorted(self.images.iterdir())
        key = key_of(sha256_of(fold.final(1)), {path.name: sha256_of(path) for path in scans})
        marker = folder / "clisc.json"
        if marker.is_file() and read_json(marker)["key"] == key:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        command = ["nnUNetv2_predict", "-i", str(self.images), "-o", str(folder), "-d", self.dataset.name]
        command += ["-c", CONFIGURATION, "-f", str(self.fold), "-tr", trainer, "-p", self.plans]
        self.run_command([*command, "-device", self.device, "-npp", "1", "-nps", "1"], results, seed)
        write_json(marker, {"key": key, "fold": str(fold.path)})
        return folder
