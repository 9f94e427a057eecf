"""The public code's way through the same work: one slice at a time in float32, a 10 x 10 inch figure for each."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from segment_anything import SamPredictor

from pseudo_labeling import cam_pass, models
from pseudo_labeling import classifier as classifier_module
from pseudo_labeling.cam import LayerCam
from pseudo_labeling.classifier import build_classifier, classifier_input, classifier_slices
from pseudo_labeling.pipeline import PseudoLabeling
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import large_components, roi_from_cam
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import encode_prompts
from pseudo_labeling.slices import read_slices, stack_from_image, write_mask
from pseudo_labeling.workspace import ENDING, Workspace
from speed.data import EMBEDDED
from speed.measure import Clock

matplotlib.use("Agg")


def label_one_by_one(labelled: Path, folder: Path, settings: Settings, device: str) -> dict[str, float]:
    """Label a dataset again whose labels are there already, with the same slice labels and the same ROIs.

    Both ways then prompt the same slices with the same prompts, and their masks can be compared. Training takes the
    same batches for the same epochs, in float32 and with torch's default memory layout.

    Args:
        labelled: raw dataset with the results of the batched way.
        folder: where a copy and the labels of this way go.
        settings: of both ways.
        device: of both ways.

    Returns:
        Seconds of each step.
    """
    clock = Clock(device)
    copy = folder / "one_by_one"
    shutil.copytree(labelled, copy, ignore=lambda where, names: set(names) & {"labelsTr", "overlays"})
    (copy / "labelsTr").mkdir()
    for name in ("classifier", "cam_raw", "roi_raw", "cam_amda", "roi_amda", "masks"):
        shutil.rmtree(copy / "clisc" / name, ignore_errors=True)
    files, done = Workspace(copy), Workspace(labelled)
    (folder / "figures").mkdir()
    with clock.timed("loading"):
        clip = models.load_clip("embedded", device)
        text = encode_prompts(clip, settings.slice_labels, device)
        predictor = SamPredictor(models.load_sam("embedded", device).model)
    with (
        clock.timed("classifier"),
        mock.patch.object(classifier_module, "bfloat16_autocast", return_value=nullcontext()),
        mock.patch.object(torch, "channels_last", torch.contiguous_format),
        mock.patch.object(cam_pass, "case_cam", _case_cam),  # between the two trainings of AMDA
    ):
        PseudoLabeling(copy, settings, EMBEDDED, device=device).classifier()
    trained, _ = build_classifier(settings.classifier, clip, None, settings.seed)
    final = "amda" if settings.amda.alpha > 0 else "raw"
    trained.load_state_dict(torch.load(files.root / "classifier" / f"{final}.pt", weights_only=True))
    trained = trained.to(device).eval()
    for case in files.cases():
        with clock.timed("reading"):
            grid, slices = read_slices(files.image(case), settings.window)
        with clock.timed("slice labels"):
            for image in slices:
                _probability(image, clip, text, device)
        with clock.timed("CAM and ROI"):
            tumour = stack_from_image_file(done.root / f"roi_{final}" / f"{case}{ENDING}")
            method = LayerCam(trained, settings.cam.layers)
            cam = _case_cam(slices, tumour.any((1, 2)), settings.classifier.image_size, method, device)
            roi_from_cam(cam, slices, settings.roi)
        prompts = prompts_from_roi(tumour, slices, settings.prompts)
        for number in range(settings.sam.passes):
            with clock.timed("masks"):
                mask = _masks(predictor, slices, prompts)
            if number == settings.sam.passes - 1:
                with clock.timed("figures"):
                    _figures(slices, mask, prompts, folder / "figures" / case)
            mask = large_components(mask, settings.sam.keep_fraction)
            prompts = prompts_from_roi(mask, slices, settings.prompts)
        with clock.timed("writing"):
            write_mask(grid, mask, files.label(case))
    return clock.seconds


def stack_from_image_file(path: Path) -> np.ndarray:
    """A mask file as `(z, y, x)` bool."""
    import SimpleITK as sitk

    return stack_from_image(sitk.ReadImage(str(path)))


@torch.inference_mode()
def _probability(image: np.ndarray, clip: Any, text: torch.Tensor, device: str) -> float:
    pixels = clip.preprocess(Image.fromarray(image).convert("RGB"))[None].to(device)
    features = torch.nn.functional.normalize(clip.model.encode_image(pixels).float(), dim=-1)
    return float((clip.model.logit_scale.exp() * features @ text.T).softmax(dim=-1)[0, 1])


def _case_cam(
    slices: np.ndarray, label: np.ndarray, image_size: int, cam: LayerCam, device: str, *, weighted: bool = True
) -> np.ndarray:
    """`cam.case_cam`, a slice at a time; not weighted, which takes no time and changes no mask that is compared."""
    maps = np.zeros(slices.shape, dtype=np.float16)
    with LayerCAM(cam.classifier, cam.layers) as method:
        for z in np.flatnonzero(label):
            inputs = classifier_input(classifier_slices(slices[z : z + 1], image_size)).to(device)
            found = method(inputs, [ClassifierOutputTarget(1)])[0]
            maps[z] = np.asarray(Image.fromarray(found).resize(maps.shape[:0:-1], Image.Resampling.BILINEAR))
    return maps


def _masks(predictor: SamPredictor, slices: np.ndarray, prompts: list[Prompt | None]) -> np.ndarray:
    masks = np.zeros(slices.shape, dtype=bool)
    for z, prompt in enumerate(prompts):
        if prompt is not None:
            masks[z] = predicted(predictor, slices[z], prompt)
    return masks


def predicted(predictor: SamPredictor, image: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The mask `(y, x)` of one slice."""
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    found: np.ndarray = predictor.predict(
        point_coords=prompt.points, point_labels=prompt.point_labels, box=prompt.box, multimask_output=False
    )[0][0]
    return found


def _figures(slices: np.ndarray, masks: np.ndarray, prompts: list[Prompt | None], stem: Path) -> None:
    for z, prompt in enumerate(prompts):
        if prompt is not None:
            save_figure(slices[z], masks[z], prompt, stem.with_name(f"{stem.name}_{z:03d}.png"))


def save_figure(image: np.ndarray, mask: np.ndarray, prompt: Prompt, path: Path) -> None:
    """Slice, mask and prompts on 10 x 10 inches, as SAM's example and the public code draw them."""
    from matplotlib import pyplot

    pyplot.figure(figsize=(10, 10))
    pyplot.imshow(image, cmap="gray")
    pyplot.imshow(np.ma.masked_equal(mask, 0), alpha=0.6, vmin=0, vmax=1)
    if prompt.points is not None:
        pyplot.scatter(*prompt.points.T, marker="*", s=375)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        pyplot.gca().add_patch(pyplot.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False))
    pyplot.axis("off")
    pyplot.savefig(path)
    pyplot.close()
