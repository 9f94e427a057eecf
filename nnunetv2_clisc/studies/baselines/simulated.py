"""The network that has seen phantoms only, on any scans: what training on simulated tumours alone is worth."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_clisc.environment import usable_device
from nnunetv2_clisc.studies.baselines.folder import BaselineFolder
from nnunetv2_clisc.training.plans import architecture, clipped_to_median
from nnunetv2_clisc.training.start import NETWORK, fill_with_start, start_record
from pseudo_labeling.slices import Grid

PIXEL_MM = 2.0  # the phantoms' heads have this size in pixels; slices are taken as thick as they are
DENSE = 0.75  # nnU-Net normalises inside the head where cutting to it leaves less than this of the scan
CONFIGURATION = "3d_fullres"


def simulated_baseline(images: Path, output: Path, *, device: str | None = None) -> list[Path]:
    """Predict with the embedded network, which has seen phantoms only (the idea of Sim2Real, the paper's [9]).

    Scans are cut, normalised, resampled and tiled by nnU-Net, at 2 mm within a slice.

    Args:
        images: folder of scans.
        output: folder that gets `CASE.nii.gz` in the scans' geometry.
        device: `cpu` or `cuda`.

    Returns:
        The masks, one a case.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    where = torch.device(usable_device(device))
    folder = BaselineFolder("simulated", images, output)

    def segment(_case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
        return simulated_mask(slices, scan.slice_mm, scan.pixel_mm, where)

    facts: dict[str, Any] = {"weights": {"unet": dataclasses.asdict(start_record())}, "pixel_mm": PIXEL_MM}
    return folder.run(segment, facts)


def simulated_mask(slices: np.ndarray, slice_mm: float, pixel_mm: float, device: torch.device) -> np.ndarray:
    """Segment one scan.

    Args:
        slices: `(z, y, x)` uint8, axial at square pixels.
        slice_mm: distance of neighbouring slices.
        pixel_mm: edge of a pixel.
        device: to compute on.

    Returns:
        `(z, y, x)` bool.
    """
    depth, *sides = slices.shape
    shape = (depth, *(round(side * pixel_mm / PIXEL_MM) for side in sides))
    patch = clipped_to_median(NETWORK.patch, list(shape))
    predictor = _predictor(patch, slice_mm, bool((slices > 0).mean() < DENSE), device)
    properties = {"spacing": [slice_mm, pixel_mm, pixel_mm]}
    found = predictor.predict_single_npy_array(slices[None].astype(np.float32), properties)
    return np.asarray(found) == 1


@lru_cache(maxsize=2)
def _predictor(patch: tuple[int, ...], slice_mm: float, inside: bool, device: torch.device) -> nnUNetPredictor:
    """nnU-Net's predictor with the embedded network in the form that a patch gives it."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    plans = {
        "dataset_name": "simulated",
        "plans_name": "simulated",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},  # Z-scores are of the scan itself
        "configurations": {
            CONFIGURATION: {
                "preprocessor_name": "DefaultPreprocessor",
                "patch_size": list(patch),
                "spacing": [slice_mm, PIXEL_MM, PIXEL_MM],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [inside],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "architecture": (made := architecture(NETWORK, patch)),
            }
        },
    }
    network = get_network_from_plans(
        made["network_class_name"], made["arch_kwargs"], made["_kw_requires_import"], 1, 2, deep_supervision=False
    )
    fill_with_start(network)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last_3d)
    manager = PlansManager(plans)
    dataset = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
    predictor = nnUNetPredictor(device=device, perform_everything_on_device=device.type == "cuda", allow_tqdm=False)
    predictor.manual_initialization(
        network.to(device),
        manager,
        manager.get_configuration(CONFIGURATION),
        [network.state_dict()],
        dataset,
        "simulated",
        None,  # no mirroring, as the small trainers predict
    )
    return predictor
