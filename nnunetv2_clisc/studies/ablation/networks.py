"""The runs with a network: one full training a seed; variants of S3F branch off its round 1 and train round 2 only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.run.run_training import get_trainer_from_args

from dataset_conversion.errors import UserError
from dataset_conversion.files import link_file, read_json, sha256_of, write_json
from nnunetv2_clisc.studies.ablation.trainings import Trainings
from nnunetv2_clisc.training.fold import FoldFolder, State, set_aside
from nnunetv2_clisc.training.rounds import SelfTraining
from nnunetv2_clisc.training.s3f import Agreement, Decision, decide, keep_all, load_agreement, write_results
from pseudo_labeling.run.workspace import ENDING, key_of

CONFIGURATION = "3d_fullres"
BETWEEN = "round_1/checkpoint_final.pth"


@dataclass(frozen=True)
class Trained:
    """A finished fold: its `nnUNet_results` and its folder."""

    results: Path
    fold: FoldFolder


class NetworkRuns(Trainings):
    """Train, branch and predict through nnU-Net's own commands, with results in the ablation's folder.

    Args:
        dataset: the user's raw dataset.
        cases: files of the scans to predict by case, `.nii.gz`.
        output: the ablation's folder.
        trainer: name of a trainer with two rounds and S3F.
        plans: name of the plans.
        fold: of the split.
        device: for nnU-Net.

    Raises:
        UserError: nnU-Net's folders are not set, or the trainer has no self-training.
    """

    def __init__(
        self,
        dataset: Path,
        cases: Mapping[str, Sequence[Path]],
        output: Path,
        *,
        trainer: str,
        plans: str,
        fold: int,
        device: str,
    ) -> None:
        super().__init__(dataset, cases, output, plans=plans, fold=fold, device=device, configuration=CONFIGURATION)
        self.trainer = trainer
        self._full: dict[int, Trained] = {}

    # ---- trainings

    def full(self, seed: int) -> Trained:
        """The whole method: round 1, S3F, round 2; the user's own finished fold where it is of the same data."""
        if seed not in self._full:
            self._full[seed] = self._finished(seed)
        return self._full[seed]

    def _finished(self, seed: int) -> Trained:
        origin = self._origin(seed)
        if seed == 0:
            mine = self._trained(Path(os.environ["nnUNet_results"]))
            state = mine.fold.read_state()
            if state == State("done", origin) and mine.fold.final(1).is_file() and mine.fold.final(2).is_file():
                return mine
        trained = self._trained(self.output / "networks" / f"seed_{seed}" / "full")
        if trained.fold.read_state() != State("done", origin):
            self._train(trained, seed)
        return trained

    def decisions(self, full: Trained, beta: float | None) -> list[Decision]:
        """What S3F keeps at another β, from the similarities of the shared round 1; without a β every case."""
        agreements = self._agreements(full)
        return keep_all(agreements) if beta is None else decide(agreements, beta)[1]

    def round_2(self, full: Trained, beta: float | None, seed: int) -> Trained:
        """A training that shares round 1 and its predictions with `full`, and goes on with the cases that β keeps.

        Where β keeps the same cases as the full run or another variant, it is that training.
        """
        decisions = self.decisions(full, beta)
        kept = [decision.agreement.case for decision in decisions if decision.kept]
        if kept == read_json(full.fold.s3f / "summary.json")["kept"]:
            return full
        name = f"round_2_of_{len(kept)}_{hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:8]}"
        trained = self._trained(self.output / "networks" / f"seed_{seed}" / name)
        shared = key_of(sha256_of(full.fold.final(1)), kept)
        marker = trained.results / "branch.json"
        if not marker.is_file() or read_json(marker)["key"] != shared:
            if trained.fold.holds_work:
                aside = set_aside(trained.results, trained.fold.path / "clisc_state.json")
                print(f"ablate: {trained.results} was of another round 1; it is now {aside}", file=sys.stderr)
            branch(full.fold, trained.fold, decisions, {"beta": beta, "s3f": beta is not None})
            write_json(marker, {"key": shared, "round_1": str(full.fold.path), "kept": kept})
        state = trained.fold.read_state()
        if state is None or not state.finished:
            self._train(trained, seed, "--c")
        return trained

    def pseudo_labels(self) -> dict[str, Path]:
        """Labels of round 1 by training case of the fold."""
        train = read_json(self.preprocessed / "splits_final.json")[self.fold]["train"]
        return {case: self.dataset / "labelsTr" / f"{case}{ENDING}" for case in train}

    # ---- predictions

    def predict(self, trained: Trained, name: str, seed: int, *, after_round_1: bool = False) -> Path:
        """Predict the scans with a finished fold, once for each checkpoint."""
        checkpoint = BETWEEN if after_round_1 else "checkpoint_final.pth"
        folder = self.output / "predictions" / name / f"seed_{seed}"
        scans = sorted(self.images.iterdir())
        key = key_of(sha256_of(trained.fold.path / checkpoint), {p.name: sha256_of(p) for p in scans})
        marker = folder / "clisc.json"
        if marker.is_file() and read_json(marker)["key"] == key:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        command = ["nnUNetv2_predict", "-i", str(self.images), "-o", str(folder), "-d", self.dataset.name]
        command += ["-c", CONFIGURATION, "-f", str(self.fold), "-tr", self.trainer, "-p", self.plans]
        command += ["-chk", checkpoint, "-device", self.device, "-npp", "1", "-nps", "1"]
        self.run_command(command, trained.results, seed)
        write_json(marker, {"key": key, "checkpoint": checkpoint, "fold": str(trained.fold.path)})
        return folder

    # ---- helpers

    def _agreements(self, full: Trained) -> list[Agreement]:
        cases = sorted(path.stem for path in full.fold.finished_cases.glob("*.json"))
        found = [agreement for case in cases if (agreement := load_agreement(full.fold.finished_cases, case))]
        if any(agreement.similarity is None for agreement in found) or not found:
            raise UserError(f"-tr {self.trainer}: leaves no similarities; name a trainer with S3F, e.g. CLISCTrainer")
        return found

    def _trained(self, results: Path) -> Trained:
        model = results / self.dataset.name / f"{self.trainer}__{self.plans}__{CONFIGURATION}"
        return Trained(results, FoldFolder(model / f"fold_{self.fold}", rounds=2))

    def _train(self, trained: Trained, seed: int, *more: str) -> None:
        command = ["nnUNetv2_train", self.dataset.name, CONFIGURATION, str(self.fold)]
        command += ["-tr", self.trainer, "-p", self.plans, "-device", self.device, *more]
        self.run_command(command, trained.results, seed)

    def _origin(self, seed: int) -> str:
        """What a training with these data is begun with, as its trainer says."""
        with tempfile.TemporaryDirectory() as folder, self.environment(Path(folder), seed):
            try:
                trainer = get_trainer_from_args(
                    self.dataset.name, CONFIGURATION, self.fold, self.trainer, self.plans, False, torch.device("cpu")
                )
            except RuntimeError as error:
                raise UserError(f"-tr {self.trainer}: {' '.join(str(error).split())[:200]}") from error
            if not isinstance(trainer, SelfTraining) or trainer.rounds != 2 or not trainer.use_s3f:
                raise UserError(
                    f"-tr {self.trainer}: has not both rounds and S3F; name one that has, e.g. CLISCTrainer"
                )
            return trainer.origin()


def branch(source: FoldFolder, target: FoldFolder, decisions: Sequence[Decision], summary: dict[str, object]) -> None:
    """Begin a fold where another one's S3F ended, with other cases kept; files are linked, `source` is only read.

    Args:
        source: a fold past S3F.
        target: the fold to begin; a training it held is moved aside.
        decisions: of every training case.
        summary: facts for `s3f/summary.json`.
    """
    state = source.read_state()
    if state is None or state.stage not in ("round_2", "done"):
        raise UserError(f"{source.path}: has not been through S3F; finish this training first")
    target.path.mkdir(parents=True, exist_ok=True)
    target.make_room()
    target.final(1).parent.mkdir(parents=True)
    link_file(source.final(1), target.final(1))
    for folder, copy in ((source.s3f, target.s3f), (source.training_files, target.training_files)):
        shutil.copytree(folder, copy, symlinks=True, copy_function=link_file, ignore=shutil.ignore_patterns("dropped"))
    write_results(target.s3f, decisions, summary)
    target.write_state(State("round_2", state.origin))  # last: what is on disk is then complete
