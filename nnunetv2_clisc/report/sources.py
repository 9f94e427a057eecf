"""What a report is made from: a dataset, a training on it, and the user's folders of masks, found and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json
from nnunetv2_clisc.environment import raw_dataset
from nnunetv2_clisc.scoring.evaluation import mask_files
from nnunetv2_clisc.training.fold import FoldFolder
from pseudo_labeling.run.workspace import ENDING, Workspace


@dataclass(frozen=True)
class Model:
    """Which training to report; None stands for the default, which may be missing."""

    trainer: str | None = None
    plans: str | None = None
    configuration: str | None = None
    fold: str | None = None

    @property
    def folder(self) -> str:
        """`TRAINER__PLANS__CONFIGURATION/fold_F`, as nnU-Net names it."""
        parts = (self.trainer or "CLISCTrainer", self.plans or "nnUNetPlans", self.configuration or "3d_fullres")
        return f"{'__'.join(parts)}/fold_{self.fold or '0'}"

    @property
    def named(self) -> bool:
        """Whether the user asked for this one in particular."""
        return any((self.trainer, self.plans, self.configuration, self.fold))


@dataclass(frozen=True)
class Run:
    """A dataset and, where there is one, a training on it.

    Attributes:
        files: the dataset's working folder.
        dataset_json: of the raw dataset.
        model: folder of the training inside the dataset's results.
        fold: the fold's folder, None before training.
        pred, gt: the masks of the user's two folders by case.
        pred_name: name of the folder of predictions.
        remarks: what a reader must know before anything else, a sentence each.
    """

    files: Workspace
    dataset_json: Mapping[str, Any]
    model: str
    fold: FoldFolder | None
    pred: Mapping[str, Path] = field(default_factory=dict)
    pred_name: str = ""
    gt: Mapping[str, Path] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def record(self) -> Mapping[str, Any]:
        """What `pseudo_label` wrote about itself; empty while the labels are incomplete."""
        return dict(self.dataset_json.get("clisc") or {})

    @property
    def final_pass(self) -> str:
        """The CAM that prompted SAM: `amda` or `raw`."""
        settings = self.record.get("settings", {})
        if "amda" in settings:
            return "amda" if settings["amda"].get("alpha", 0) > 0 else "raw"
        return "amda" if any((self.files.root / "roi_amda").glob(f"*{ENDING}")) else "raw"

    def roi(self, case: str) -> Path:
        """The ROI that prompted SAM."""
        return self.files.root / f"roi_{self.final_pass}" / f"{case}{ENDING}"

    def cam(self, case: str) -> Path:
        """The CAM behind that ROI."""
        return self.files.root / f"cam_{self.final_pass}" / f"{case}.npz"

    @property
    def clusters(self) -> Path | None:
        """The record of the clusters of segments, where the labels are made of these."""
        path = self.files.root / "clusters" / "clusters.json"
        return path if path.is_file() and not (self.files.root / "slice_labels.csv").is_file() else None

    def prediction(self, case: str) -> tuple[Path, str] | None:
        """A network's mask of a case and whose it is: the user's, else the validation's, else round 1's."""
        if case in self.pred:
            return self.pred[case], f"prediction, {self.pred_name}"
        if self.fold is not None:
            places = (
                (self.fold.path / "validation" / f"{case}{ENDING}", "network, validation"),
                (self.fold.prediction(case, ENDING), "network, round 1"),
            )
            return next(((path, whose) for path, whose in places if path.is_file()), None)
        return None

    def test_image(self, case: str) -> list[Path] | None:
        """The files of a case outside `imagesTr`, as :meth:`Workspace.shown` has those inside."""
        files = [self.files.dataset / "imagesTs" / path.name for path in self.files.shown(case)]
        return files if all(path.is_file() for path in files) else None


def find_run(dataset_id: int | str | Path, model: Model, *, pred: Path | None = None, gt: Path | None = None) -> Run:
    """Find everything there is of a dataset.

    Raises:
        UserError: not labelled, a model that was named and is not there, or a folder of masks that fits no case.
    """
    dataset = raw_dataset(dataset_id)
    files = Workspace(dataset)
    cases = files.cases()
    if not any((files.root / name).is_file() for name in ("slice_labels.csv", "clusters/clusters.json")):
        raise UserError(f"-d {dataset_id}: {dataset} has no pseudo-labels; run `nnUNetv2_clisc pseudo_label` first")
    fold, remarks = _find_fold(dataset.name, model)
    predictions = mask_files(pred) if pred is not None else {}
    references = mask_files(gt) if gt is not None else {}
    if gt is not None and gt.resolve() == files.labels_dir.resolve():
        raise UserError(f"--gt {gt}: holds the pseudo-labels themselves; name a folder of masks drawn by hand")
    if references and not references.keys() & {*cases, *predictions}:
        raise UserError(f"--gt {gt}: has no mask of a case in {files.images_dir} or --pred; name the folder of masks")
    dataset_json = read_json(dataset / "dataset.json")
    strangers = [case for case in predictions if case not in cases and not _test_image(dataset, case).is_file()]
    if strangers:
        raise UserError(f"--pred {pred}: {dataset} has no scan of case {strangers[0]}; give predictions of this data")
    if fold is not None:
        remarks += _relabelled_since(fold, dataset_json)
    if "clisc" not in dataset_json:
        remarks.append(
            "Labelling is not complete: dataset.json has no entry clisc. Run pseudo_label again; it goes on."
        )
    if not references:
        remarks.append("No masks were given (--gt), so nothing here says how good a mask is, only where parts agree.")
    name = pred.resolve().name if pred is not None else ""
    return Run(files, dataset_json, model.folder, fold, predictions, name, references, remarks)


def _test_image(dataset: Path, case: str) -> Path:
    return dataset / "imagesTs" / f"{case}_0000{ENDING}"


def _find_fold(dataset: str, model: Model) -> tuple[FoldFolder | None, list[str]]:
    """The fold's folder if it was begun, else a remark; an error where the user named it."""
    root = os.environ.get("nnUNet_results")
    path = Path(root or "") / dataset / model.folder
    if root and path.is_dir():
        state = read_json(path / "clisc_state.json") if (path / "clisc_state.json").is_file() else {}
        rounds, stage = int(state.get("rounds", 1)), state.get("stage", "")
        remarks = [] if stage in ("done", "") else [f"Training is not finished: this fold is in stage {stage}."]
        return FoldFolder(path, rounds), remarks
    trained = sorted(f"{p.parent.name}/{p.name}" for p in (Path(root) / dataset).glob("*__*/fold_*")) if root else []
    if model.named:
        what = f"trained so far: {', '.join(trained)}" if trained else "nothing is trained yet; leave these flags out"
        raise UserError(f"-tr/-p/-c/-f: nnUNet_results has no {dataset}/{model.folder}; {what}")
    remark = f"No training of {model.folder}: curves, S3F and predictions of the network are missing."
    if not root:
        remark += " The variable nnUNet_results is not set."
    if trained:
        remark += f" Name one with -tr, -p and -f: {', '.join(trained)}."
    return None, [remark]


def _relabelled_since(fold: FoldFolder, dataset_json: Mapping[str, Any]) -> list[str]:
    path = fold.path.parent / "dataset.json"
    if path.is_file() and read_json(path).get("clisc") != dataset_json.get("clisc"):
        return ["The dataset was labelled with other settings or weights after this training: it learned from others."]
    return []
