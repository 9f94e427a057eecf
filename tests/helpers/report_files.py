"""A dataset as labelling and training leave it, for tests of the report: known masks, known agreement, known scores."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from dataset_conversion.files import write_bytes, write_json, write_table
from nnunetv2_clisc.report.sources import Model
from nnunetv2_clisc.training.fold import FoldFolder, State
from nnunetv2_clisc.training.s3f import Agreement, decide, similarity, write_results
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings
from tests.helpers.tiny_nnunet import lesion, write_image

TRAINED = Model("CLISCTrainer_small", "nnUNetPlans_coarse")
EPOCHS = 4


@dataclass(frozen=True)
class Made:
    """Where things are; `gt` holds the true masks."""

    dataset: Path
    fold: FoldFolder
    gt: Path


def shifted(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask moved along x, so that it agrees less the further it goes."""
    return np.roll(mask, pixels, axis=2)


def make_labelled(root: Path, cases: list[str]) -> Made:
    """Dataset 501 with everything that `pseudo_label` writes; every second scan is stored from head to foot."""
    dataset, gt = root / "nnUNet_raw" / "Dataset501_A", root / "gt"
    files = Workspace(dataset)
    for folder in (files.images_dir, files.labels_dir, gt, files.root / "roi_amda"):
        folder.mkdir(parents=True)
    slice_rows, summary = [], []
    for number, case in enumerate(sorted(cases)):
        scan, mask = lesion(number)
        depth, orientation = len(scan), "LPI" if number % 2 else "LPS"
        roi, label = shifted(mask, 1), shifted(mask, number)
        write_image(files.image(case), scan, orientation)
        for folder, array in ((files.root / "roi_amda", roi), (files.labels_dir, label), (gt, mask)):
            write_image(folder / f"{case}.nii.gz", array.astype(np.uint8), orientation)
        cam = io.BytesIO()
        np.savez_compressed(cam, cam=roi.astype(np.float16))
        write_bytes(files.path("cam_amda", f"{case}.npz"), cam.getvalue())
        tumour = mask.any(axis=(1, 2))
        probability = np.where(tumour, 0.9, 0.1) - np.arange(depth) / 1000
        order = list(range(depth)) if orientation == "LPS" else list(range(depth))[::-1]
        files.finish("slice_labels", case, "key", file_slices=order, probability=probability.tolist(), slice_mm=3.0)
        for z in np.argsort(order):
            slice_rows.append(
                {"case": case, "slice": order[z], "label": int(tumour[z]), "probability": f"{probability[z]:.4f}",
                 "confident": 1}
            )  # fmt: skip
        counts = {"slices": depth, "tumour_slices": int(tumour.sum()), "prompted_slices": int(roi.any((1, 2)).sum())}
        summary.append({"case": case, **counts, "roi_voxels": int(roi.sum()), "mask_voxels": int(label.sum())})
    write_table(files.root / "slice_labels.csv", list(slice_rows[0]), slice_rows)
    write_table(files.root / "summary.csv", list(summary[0]), summary)
    for name in ("raw", "amda"):
        history = [{"epoch": epoch, "train_loss": 1 / epoch, "held_out_loss": 1.1 / epoch} for epoch in (1, 2, 3)]
        made = files.path("classifier", f"{name}.pt")
        made.write_bytes(name.encode())
        files.finish("classifier", name, "key", [made], origin="CLIP image tower", history=history, best_epoch=3)
    weights = {
        role: {"spec": "embedded", "name": f"embedded {role}", "sha256": 64 * role[0]} for role in ("clip", "sam")
    }
    clisc = {
        "settings": Settings().merged({"prompts": {"margin": 7}}).to_dict(),
        "weights": weights,
        "classifier": {"initial_weights": "CLIP image tower", "best_epoch": 3},
        "image_labels": None,
        "device": "cpu",
        "versions": {"torch": "0.0-test"},
        "seed": 0,
    }
    write_json(dataset / "dataset.json", {"channel_names": {"0": "FLAIR"}, "file_ending": ".nii.gz", "clisc": clisc})
    write_json(dataset / "splits_final.json", [{"train": cases[:-1], "val": cases[-1:]}])
    fold = root / "nnUNet_results" / "Dataset501_A" / TRAINED.folder
    return Made(dataset, FoldFolder(fold, 2), gt)


def add_training(made: Made) -> None:
    """Both rounds and S3F of fold 0: round 1 is off by twice the label's shift, SAM by the label's own."""
    files = Workspace(made.dataset)
    agreements = []
    for folder in (made.fold.s3f / "predictions", made.fold.s3f / "sam"):
        folder.mkdir(parents=True)
    for number, case in enumerate(files.cases()[:-1]):
        _, mask = lesion(number)
        prediction, sam = shifted(mask, 2 * number), shifted(mask, number)
        orientation = "LPI" if number % 2 else "LPS"
        write_image(made.fold.prediction(case, ".nii.gz"), prediction.astype(np.uint8), orientation)
        write_image(made.fold.sam_mask(case, ".nii.gz"), sam.astype(np.uint8), orientation)
        agreements.append(Agreement(case, int(prediction.sum()), int(sam.sum()), similarity(prediction, sam)))
    threshold, decisions = decide(agreements, 30.0)
    write_results(made.fold.s3f, decisions, {"s3f": True, "beta": 30.0, "threshold": threshold})
    for number in (1, 2):
        values = [0.5 / number - 0.1 * epoch for epoch in range(EPOCHS)]
        dice = [0.2 * epoch for epoch in range(EPOCHS)]
        stamps = [float(epoch) for epoch in range(EPOCHS)]
        logging = {"train_losses": values, "val_losses": values, "mean_fg_dice": dice, "ema_fg_dice": dice}
        logging |= {"epoch_start_timestamps": stamps, "epoch_end_timestamps": [stamp + 0.5 for stamp in stamps]}
        made.fold.round(number).mkdir(parents=True, exist_ok=True)
        content = {"network_weights": {}, "trainer_name": "CLISCTrainer_small", "init_args": {}, "logging": logging}
        torch.save(content, made.fold.final(number))
    made.fold.write_state(State("done", "origin"))
    (made.fold.path.parent / "dataset.json").write_text((made.dataset / "dataset.json").read_text())


def add_test_cases(made: Made, folder: Path, cases: list[str]) -> Path:
    """Scans in `imagesTs`, their true masks, and a folder of predictions, each worse than the one before."""
    (made.dataset / "imagesTs").mkdir()
    folder.mkdir()
    for number, case in enumerate(cases):
        scan, mask = lesion(50 + number)
        write_image(made.dataset / "imagesTs" / f"{case}_0000.nii.gz", scan)
        write_image(made.gt / f"{case}.nii.gz", mask.astype(np.uint8))
        write_image(folder / f"{case}.nii.gz", shifted(mask, number).astype(np.uint8))
    return folder


def dice(first: Path, second: Path) -> float:
    """Dice of two mask files on one grid."""
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0 for path in (first, second))
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
