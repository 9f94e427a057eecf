"""Variants of one trainer, each a training of its own, on labels of any route: UM-SAM's losses, AISCT-SAM's parts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset_conversion.files import read_json, sha256_of, write_json
from dataset_conversion.scans.mirror import exchange_mirrors
from nnunetv2_clisc.studies.ablation.trainings import Trainings
from nnunetv2_clisc.training.fold import FoldFolder
from pseudo_labeling.run.workspace import key_of


class Family(NamedTuple):
    """Trainers that differ in one part each, which the end of their name says.

    Attributes:
        base: the trainer with all parts.
        named: part of the name of each, also of a user's own.
        configuration: of nnU-Net.
    """

    base: str
    named: str
    configuration: str

    def trainer(self, asked: str) -> str:
        """The one with all parts: the user's own, or ours, for `CLISCTrainer_small` our small one."""
        return asked if self.named in asked else f"{self.base}_small" if "_small" in asked else self.base


FAMILIES = {
    "distilled": Family("DistillationTrainer", "Distillation", "2d"),
    "adapted": Family("SamAdapterTrainer", "Adapter", "3d_fullres"),
}


class VariantRuns(Trainings):
    """Train and predict with variants of a trainer.

    Args:
        stage: of the runs; see `FAMILIES`.
        dataset, cases, output, plans, fold, device: as of :class:`Trainings`.
        trainer: what the user asked for; see :meth:`Family.trainer`.
    """

    def __init__(
        self,
        stage: str,
        dataset: Path,
        cases: Mapping[str, Sequence[Path]],
        output: Path,
        *,
        trainer: str,
        plans: str,
        fold: int,
        device: str,
    ) -> None:
        family = FAMILIES[stage]
        super().__init__(
            dataset, cases, output, plans=plans, fold=fold, device=device, configuration=family.configuration
        )
        self.stage, self.base = stage, family.trainer(trainer)

    def predicted(self, variant: str, seed: int, *, exchanged: bool = False) -> Path:
        """Folder with the masks of the scans, by a network that is trained now or was by an earlier run.

        Args:
            variant: end of the trainer's name, or nothing.
            seed: number of the repetition.
            exchanged: each scan gets the mirror image of another one.
        """
        trainer = f"{self.base}{variant}"
        results = self.output / "networks" / f"seed_{seed}" / self.stage
        model = results / self.dataset.name / f"{trainer}__{self.plans}__{self.configuration}"
        fold = FoldFolder(model / f"fold_{self.fold}", rounds=1)
        place = [self.dataset.name, self.configuration, str(self.fold)]
        state = fold.read_state()
        if state is None or not state.finished:
            command = ["nnUNetv2_train", *place, "-tr", trainer, "-p", self.plans, "-device", self.device]
            self.run_command(command, results, seed)
        images = self.output / "images_exchanged" if exchanged else self.images
        if exchanged:
            shutil.rmtree(images, ignore_errors=True)
            exchange_mirrors(self.images, images)
        folder = self.output / "predictions" / f"{trainer}{'_exchanged' if exchanged else ''}" / f"seed_{seed}"
        scans = sorted(images.iterdir())
        key = key_of(sha256_of(fold.final(1)), {path.name: sha256_of(path) for path in scans})
        marker = folder / "clisc.json"
        if marker.is_file() and read_json(marker)["key"] == key:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        command = ["nnUNetv2_predict", "-i", str(images), "-o", str(folder), "-d", self.dataset.name]
        command += ["-c", self.configuration, "-f", str(self.fold), "-tr", trainer, "-p", self.plans]
        self.run_command([*command, "-device", self.device, "-npp", "1", "-nps", "1"], results, seed)
        write_json(marker, {"key": key, "fold": str(fold.path)})
        return folder
