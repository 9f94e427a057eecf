"""The command `sanity`: do CLIP, the CAM and clusters heed what they are asked, or would anything give these labels?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import write_json, write_text
from nnunetv2_clisc.environment import raw_dataset, usable_device
from nnunetv2_clisc.scoring.metrics import dice
from nnunetv2_clisc.scoring.stage_table import auc
from nnunetv2_clisc.scoring.statistics import MetricSummary
from nnunetv2_clisc.scoring.tables import NOTHING, Table, mean_sd, number, to_markdown, without_nan
from nnunetv2_clisc.studies.cam_study import CamStudy, curve_slices, summary_of, table_of
from nnunetv2_clisc.studies.segment_study import SegmentStudy
from nnunetv2_clisc.studies.segment_study import table_of as segment_table
from pseudo_labeling.cam import case_cam
from pseudo_labeling.cam_methods import cam_method
from pseudo_labeling.classifier import classifier_input, classifier_slices
from pseudo_labeling.controls.cam_quality import area, deletion_and_insertion, hits, randomised
from pseudo_labeling.controls.prompt_controls import OWN, controlled_labels, kappa
from pseudo_labeling.roi import roi_from_cam
from pseudo_labeling.run.new_cases import FinishedRun, finished_entry
from pseudo_labeling.run.workspace import ENDING, Workspace
from pseudo_labeling.settings import CamName, Settings
from pseudo_labeling.slice_labels import HEAD_LEVEL, log_odds
from pseudo_labeling.slices import Scan, axial_slices, read_scan

TRAINED, RANDOM, NOTHING_LEARNED = "trained classifier", "randomised classifier", "no CAM (all of a tumour slice)"
CHANCE = "random map"
RANDOM_CELLS = 12  # edge of the random map before it is made smooth: single deleted pixels would be mere noise


@dataclass
class Found:
    """What was measured so far, by control."""

    called: dict[str, list[np.ndarray]] = field(default_factory=dict)
    probability: dict[str, list[np.ndarray]] = field(default_factory=dict)
    lesion: list[np.ndarray] = field(default_factory=list)
    roi_dice: dict[str, list[float]] = field(default_factory=dict)
    deletion: dict[str, list[float]] = field(default_factory=dict)
    insertion: dict[str, list[float]] = field(default_factory=dict)
    pointing: dict[str, list[float]] = field(default_factory=dict)


def sanity(
    dataset_id: int | str,
    *,
    gt: Path | None = None,
    output: Path | None = None,
    cases: int = 12,
    device: str | None = None,
    seed: int = 0,
    methods: Sequence[str] = (),
    permuted: bool = False,
) -> str:
    """Run all controls on some training cases; no label changes.

    Args:
        dataset_id: of a dataset that `pseudo_label` has been through.
        gt: masks; then only cases with a mask are taken, and slice labels and maxima are judged by them too.
        output: folder for `sanity.md` and `sanity.json`; by default `clisc/sanity` in the raw dataset.
        cases: how many, spread evenly over the names.
        device: `cpu` or `cuda`.
        seed: of the randomised weights and the random maps.
        methods: CAM methods to compare with each other, beside RandomCAM; `all` for all.
        permuted: compare them also with maps of a classifier trained on permuted labels, which takes as long as the
            first one's training.

    Returns:
        The tables as Markdown.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    if unknown := sorted(set(methods) - {*get_args(CamName), "all"}):
        raise UserError(f"--methods {unknown[0]}: no such CAM method; give {', '.join(get_args(CamName))}, or all")
    files = Workspace(raw_dataset(dataset_id))
    if Settings.from_dict(finished_entry(files)["settings"]).masks.source == "everything":
        return _of_segments(files, gt, output, cases, seed)
    compared = [name for name in get_args(CamName) if name in methods or "all" in methods]
    finished = FinishedRun(files, usable_device(device))
    finished.facts(finished.final, sam=False)
    names = _chosen_cases(files, gt, cases)
    if files.pictures and not methods:
        raise UserError(f"-d {dataset_id}: holds pictures, whose labels no prompt has made; give --methods to compare")
    rows: dict[str, Any] = {}
    tables: list[Table] = []
    if not files.pictures:
        found, checks = Found(), _Checks(finished, seed)
        for case in tqdm(names, desc="sanity", unit="case"):
            scan = read_scan(files.image(case))
            mask = None if gt is None else scan.read_mask(gt / f"{case}{ENDING}", "give masks of these scans")
            checks.case(scan, mask, found)
        rows = _rows(found)
        tables = _tables(rows, len(names))
    if methods:
        study = CamStudy(finished, compared, permuted=permuted, seed=seed)
        for case in tqdm(names, desc="CAM methods", unit="case"):
            study.case(case, None if gt is None else gt / f"{case}{ENDING}")
        rows["methods"] = study.rows()
        tables.append(table_of(study.rows(), len(names)))
    text = to_markdown(tables)
    folder = output or files.root / "sanity"
    write_json(folder / "sanity.json", without_nan({"cases": names, "seed": seed, **rows}))
    write_text(folder / "sanity.md", text)
    return text


def _of_segments(files: Workspace, gt: Path | None, output: Path | None, cases: int, seed: int) -> str:
    """The study of a dataset that was labelled from segments: there is no CAM, and CLIP labels no slice."""
    if gt is None:
        raise UserError("sanity: this dataset was labelled from segments, which only masks can judge; give --gt")
    names = _chosen_cases(files, gt, cases)
    study = SegmentStudy(files, Settings.from_dict(finished_entry(files)["settings"]), gt, names, seed)
    rows = study.rows()
    text = to_markdown([segment_table(rows, len(names))])
    folder = output or files.root / "sanity"
    write_json(folder / "sanity.json", without_nan({"cases": names, "seed": seed, "segments": rows}))
    write_text(folder / "sanity.md", text)
    return text


def _chosen_cases(files: Workspace, gt: Path | None, cases: int) -> list[str]:
    """Some of the cases, spread evenly over the names; with masks only those that have one."""
    names = files.cases()
    if gt is not None:
        names = [case for case in names if (gt / f"{case}{ENDING}").is_file()]
        if not names:
            raise UserError(f"--gt {gt}: has no mask of a case in {files.images_dir}; name the folder of CASE{ENDING}")
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(cases, len(names))).astype(int))]


class _Checks:
    """Every control on one case after the other."""

    def __init__(self, finished: FinishedRun, seed: int) -> None:
        self.finished = finished
        self.rng = np.random.default_rng(seed)
        trained = finished.classifier(finished.final)
        self.classifiers = {TRAINED: trained, RANDOM: randomised(trained, seed)}

    def case(self, scan: Scan, mask: np.ndarray | None, found: Found) -> None:
        run, settings = self.finished, self.finished.settings
        slices = axial_slices(scan, settings.window)
        labelled = controlled_labels(slices, scan.slice_mm, run.networks.clip, settings.slice_labels, run.device)
        for name, labels in labelled.items():
            found.called.setdefault(name, []).append(labels.label)
            found.probability.setdefault(name, []).append(labels.probability)
        if mask is not None:
            found.lesion.append(np.asarray(mask.any(axis=(1, 2))))
        label = labelled[OWN].label
        if not label.any():
            return
        rois = {}
        without = cam_method(settings.cam, self.classifiers[RANDOM], settings.seed)
        size, weighted = settings.classifier.image_size, settings.cam.weighted
        cams = {
            TRAINED: run.cam(run.final, slices, label),  # what prompts SAM, both classifiers' if so set
            RANDOM: case_cam(slices, label, size, without, run.device, weighted=weighted),
        }
        for name, cam in cams.items():
            rois[name] = roi_from_cam(cam, slices, settings.roi)
            if mask is not None:
                found.pointing.setdefault(name, []).extend(map(float, hits(cam, mask)))
        everywhere = np.zeros(slices.shape, dtype=np.float16)
        everywhere[label == 1] = 1
        by_brightness = settings.roi.brightness  # without, a CAM of ones has no threshold
        rois[NOTHING_LEARNED] = roi_from_cam(everywhere, slices, settings.roi) if by_brightness else everywhere > 0
        for name in (RANDOM, NOTHING_LEARNED):
            found.roi_dice.setdefault(name, []).append(dice(rois[name], rois[TRAINED]))
        if mask is not None:
            head = slices > HEAD_LEVEL
            struck = [z for z in np.flatnonzero(label) if mask[z].any() and head[z].any()]
            found.pointing.setdefault(CHANCE, []).extend(
                float((mask[z] & head[z]).sum() / head[z].sum()) for z in struck
            )
        self._curves(classifier_input(classifier_slices(slices, settings.classifier.image_size)), label, found)

    def _curves(self, inputs: torch.Tensor, label: np.ndarray, found: Found) -> None:
        tumour = np.flatnonzero(label)
        chosen = curve_slices(tumour)
        batch = inputs[chosen].to(self.finished.device)
        settings = self.finished.settings
        orders = {
            name: cam_method(settings.cam, model, settings.seed)(batch.clone())
            for name, model in self.classifiers.items()
        }
        cells = torch.from_numpy(self.rng.random((len(chosen), 1, RANDOM_CELLS, RANDOM_CELLS)).astype(np.float32))
        orders[CHANCE] = F.interpolate(cells, size=batch.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        for name, order in orders.items():
            deletion, insertion = deletion_and_insertion(self.classifiers[TRAINED], batch, order.detach())
            found.deletion.setdefault(name, []).extend(area(deletion).tolist())
            found.insertion.setdefault(name, []).extend(area(insertion).tolist())


def _rows(found: Found) -> dict[str, Any]:
    """The numbers by control, None for what is undefined."""
    own = np.concatenate(found.called[OWN])
    lesion = np.concatenate(found.lesion) if found.lesion else None
    prompts: dict[str, Any] = {}
    for name in found.called:
        called, probability = np.concatenate(found.called[name]), np.concatenate(found.probability[name])
        prompts[name] = {
            "slices": len(called),
            "called": float(called.mean()),
            "evidence": float(np.abs(log_odds(probability)).mean()),
            "kappa": kappa(called, own),
            "auc": math.nan if lesion is None else auc(probability, lesion),
        }
    cam: dict[str, Any] = {}
    for name in (TRAINED, RANDOM, NOTHING_LEARNED, CHANCE):
        values = {
            "roi_dice": found.roi_dice.get(name),
            "deletion": found.deletion.get(name),
            "insertion": found.insertion.get(name),
            "pointing": found.pointing.get(name),
        }
        cam[name] = {key: summary_of(of) for key, of in values.items()}
    return {"prompts": prompts, "cam": cam}


def _tables(rows: dict[str, Any], cases: int) -> list[Table]:
    prompts = [
        [
            name,
            f"{100 * row['called']:.1f}",
            number(row["evidence"], 2),
            number(row["kappa"], 2),
            number(row["auc"]),
        ]
        for name, row in rows["prompts"].items()
    ]
    slices = rows["prompts"][OWN]["slices"]
    cam = [
        [name, *(NOTHING if of is None else mean_sd(MetricSummary(**of, nan=0)) for of in row.values())]
        for name, row in rows["cam"].items()
    ]
    return [
        Table(
            f"CLIP: slice labels under other prompts ({slices} slices of {cases} cases). Healthy: for nonsense, "
            "little evidence (mean size of the log-odds) and agreement with the own labels (kappa) near 0; for swapped "
            "classes, kappa below 0",
            ["Prompts", "called tumour (%)", "evidence", "kappa", "AUC against masks"],
            prompts,
        ),
        Table(
            "CAM (mean ± sd). Healthy: ROIs of a randomised classifier agree little with the trained one's; deletion "
            "is low and insertion high beside a random map; the CAM's maximum lies in the lesion",
            ["Map", "ROI Dice with trained", "deletion AUC", "insertion AUC", "pointing game"],
            cam,
        ),
    ]
