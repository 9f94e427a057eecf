"""The public code's way through the same work: one slice at a time in float32, a figure for each.

Public code: github.com/HiLab-git/CLISC, `train/`, commit 7a85350. What it does is done here with our networks
and our settings, so that both ways find the same. What the result does not need is clocked apart (`NOT_NEEDED`):

- `step0_get_clip_label.py` gives CLIP both prompts again with every slice;
- `step1-2_get_Layercam.py` asks the classifier about every slice first, and saves a figure of 10 x 5 inches for each
  slice with a tumour, with both classifiers;
- `step2_sam_inference.py` saves a figure of 10 x 10 inches for each mask (this one is timed as `figures`).

Left out in its favour: its four processes that read each training slice from a PNG file in every epoch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from segment_anything import SamPredictor

from benchmarks.speed.figures import save_cam_figure, save_mask_figure
from benchmarks.speed.measure import Clock
from pseudo_labeling import cam_methods
from pseudo_labeling import classifier as classifier_module
from pseudo_labeling.cam import LayerCam
from pseudo_labeling.classifier import TrainingState, build_classifier, classifier_input, classifier_slices
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import large_components, roi_from_cam
from pseudo_labeling.run import cam_pass
from pseudo_labeling.run.classifier_files import AMDA, RAW, final_pass
from pseudo_labeling.run.pipeline import PseudoLabeling, WeightSpecs
from pseudo_labeling.run.workspace import ENDING, Workspace
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import read_slices, read_squares, write_mask
from pseudo_labeling.weights import models

NOT_NEEDED = ("prompts again", "asking first", "CAM figures")


def label_one_by_one(
    labelled: Path, folder: Path, settings: Settings, specs: WeightSpecs, device: str
) -> dict[str, float]:
    """Label a dataset again whose labels are there already, with the same slice labels and the same ROIs.

    Both ways then prompt the same slices with the same prompts, and their masks can be compared. Training takes the
    same batches for as many epochs as the batched way took, in float32 and with torch's default memory layout.

    Args:
        labelled: raw dataset with the results of the batched way.
        folder: where a copy and the labels of this way go.
        settings: of both ways.
        specs: weights of both ways.
        device: of both ways.

    Returns:
        Seconds of each step.
    """
    way = OneByOne(settings, specs, device, folder / "figures")
    copy = folder / "one_by_one"
    shutil.copytree(labelled, copy, ignore=lambda where, names: set(names) & {"labelsTr", "overlays"})
    (copy / "labelsTr").mkdir()
    for name in ("classifier", "cam_raw", "roi_raw", "cam_amda", "roi_amda", "masks"):
        shutil.rmtree(copy / "clisc" / name, ignore_errors=True)
    files, done = Workspace(copy), Workspace(labelled)
    with way.clock.timed("loading"):
        way.load()
    with way.clock.timed("classifier"), way.training(_epochs(done)):
        PseudoLabeling(copy, settings, specs, device=device).stage("classifier")
    final = final_pass(settings.amda.alpha)
    trained, _ = build_classifier(settings.classifier, way.clip, None, settings.seed)
    trained.load_state_dict(torch.load(files.root / "classifier" / f"{final}.pt", weights_only=True))
    trained = trained.to(device).eval()
    for case in files.cases():
        with way.clock.timed("reading"):
            grid, slices = read_slices(files.image(case), settings.window)
        for image in slices:
            way.probability(image)
        with way.clock.timed("CAM and ROI"):
            tumour = read_squares(done.root / f"roi_{final}" / f"{case}{ENDING}")
            method = LayerCam(trained, settings.cam.layers)
            cam = way.case_cam(slices, tumour.any((1, 2)), settings.classifier.image_size, method, device)
            roi_from_cam(cam, slices, settings.roi)
        mask = way.masks(slices, tumour, grid.pixel_mm)
        with way.clock.timed("writing"):
            write_mask(grid, mask, files.label(case))
    return way.clock.seconds


class OneByOne:
    """The steps of the public code, each on its clock.

    Args:
        settings: of the labelling.
        specs: its weights.
        device: where to compute.
        figures: folder for the figures.
    """

    def __init__(self, settings: Settings, specs: WeightSpecs, device: str, figures: Path) -> None:
        self.settings = settings
        self.specs = specs
        self.device = device
        self.figures = figures
        self.clock = Clock(device)
        self._saved = 0
        figures.mkdir()

    def load(self) -> None:
        """Load both networks."""
        self.clip = models.load_clip(self.specs.clip, self.device)
        prompts = [self.settings.slice_labels.normal_prompt, self.settings.slice_labels.tumour_prompt]
        self._tokens = self.clip.tokenizer(prompts).to(self.device)
        self._predictor = SamPredictor(models.load_sam(self.specs.sam, self.device).model)

    @contextmanager
    def training(self, epochs: list[int]) -> Iterator[None]:
        """Inside, a labelling trains in float32 for these epochs, and makes its CAMs slice by slice.

        Args:
            epochs: of each training, in turn.
        """
        train, left = cam_pass.train_classifier, iter(epochs)

        def for_as_many_epochs(
            model: Any, slices: Any, labels: Any, held_out: Any, settings: Any, **more: Any
        ) -> TrainingState:
            count = next(left)
            return train(model, slices, labels, held_out, replace(settings, epochs=count, patience=count), **more)

        with (
            mock.patch.object(cam_pass, "train_classifier", for_as_many_epochs),
            mock.patch.object(classifier_module, "bfloat16_autocast", return_value=nullcontext()),
            mock.patch.object(torch, "channels_last", torch.contiguous_format),
            mock.patch.object(cam_methods, "case_cam", self.case_cam),  # between the two trainings of AMDA
        ):
            yield

    @torch.inference_mode()
    def probability(self, image: np.ndarray) -> float:
        """CLIP's probability of a tumour in a slice `(y, x)`."""
        with self.clock.timed("prompts again"):
            text = torch.nn.functional.normalize(self.clip.model.encode_text(self._tokens).float(), dim=-1)
        with self.clock.timed("slice labels"):
            pixels = self.clip.preprocess(Image.fromarray(image).convert("RGB"))[None].to(self.device)
            features = torch.nn.functional.normalize(self.clip.model.encode_image(pixels).float(), dim=-1)
            return float((self.clip.model.logit_scale.exp() * features @ text.T).softmax(dim=-1)[0, 1])

    def case_cam(
        self, slices: np.ndarray, label: np.ndarray, image_size: int, cam: LayerCam, device: str, **_weighted: bool
    ) -> np.ndarray:
        """`cam.case_cam`, a slice at a time; not weighted, which takes no time and changes no mask that is compared."""
        maps = np.zeros(slices.shape, dtype=np.float16)
        with LayerCAM(cam.classifier, cam.layers) as method:
            for z, image in enumerate(slices):
                with self.clock.timed("asking first"), torch.inference_mode():
                    cam.classifier(self._classifier_input(image, image_size)).argmax()
                if not label[z]:
                    continue
                found = method(self._classifier_input(image, image_size), [ClassifierOutputTarget(1)])[0]
                maps[z] = np.asarray(Image.fromarray(found).resize(maps.shape[:0:-1], Image.Resampling.BILINEAR))
                with self.clock.timed("CAM figures"):
                    save_cam_figure(image, maps[z].astype(np.float32), self._figure())
        return maps

    def masks(self, slices: np.ndarray, region: np.ndarray, pixel_mm: float) -> np.ndarray:
        """SAM's masks `(z, y, x)` from a region, in as many passes as the settings say, with figures in the last."""
        prompts = prompts_from_roi(region, slices, self.settings.prompts, pixel_mm)
        mask = np.zeros(slices.shape, dtype=bool)
        for number in range(self.settings.sam.passes):
            asked = {z: prompt for z, prompt in enumerate(prompts) if prompt is not None}
            mask = np.zeros(slices.shape, dtype=bool)
            with self.clock.timed("masks"):
                for z, prompt in asked.items():
                    mask[z] = predicted(self._predictor, slices[z], prompt)
            if number == self.settings.sam.passes - 1:
                with self.clock.timed("figures"):
                    for z, prompt in asked.items():
                        save_mask_figure(slices[z], mask[z], prompt, self._figure())
            mask = large_components(mask, self.settings.sam.keep_fraction)
            prompts = prompts_from_roi(mask, slices, self.settings.prompts, pixel_mm)
        return mask

    def _classifier_input(self, image: np.ndarray, size: int) -> torch.Tensor:
        return classifier_input(classifier_slices(image[None], size)).to(self.device)

    def _figure(self) -> Path:
        self._saved += 1
        return self.figures / f"{self._saved:06d}"


def predicted(predictor: SamPredictor, image: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The mask `(y, x)` of one slice."""
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    found: np.ndarray = predictor.predict(
        point_coords=prompt.points, point_labels=prompt.point_labels, box=prompt.box, multimask_output=False
    )[0][0]
    return found


def _epochs(done: Workspace) -> list[int]:
    """Epochs of each training of a labelling, in turn."""
    records = [done.root / "classifier" / f"{name}.json" for name in (RAW, AMDA)]
    return [len(json.loads(path.read_text())["history"]) for path in records if path.exists()]
