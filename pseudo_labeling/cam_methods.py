"""The CAM methods that the settings name: our LayerCAM, and those of `pytorch_grad_cam`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pseudo_labeling.cam import CamMethod, LayerCam, case_cam, mapped_slices
from pseudo_labeling.settings import CamName, CamSettings, Settings


def cam_methods(settings: CamSettings, classifier: nn.Module, seed: int = 0) -> list[CamMethod]:
    """The CAM methods that the settings name, the one that makes the ROI first.

    Args:
        settings: methods, layers and class.
        classifier: as for :class:`~pseudo_labeling.cam.CamMethod`.
        seed: of RandomCAM.
    """
    return [_method(name, settings, classifier, seed) for name in settings.methods]


def cam_method(settings: CamSettings, classifier: nn.Module, seed: int = 0) -> CamMethod:
    """The one that makes the ROI, of :func:`cam_methods`."""
    return cam_methods(settings, classifier, seed)[0]


def case_cams(
    slices: np.ndarray, label: np.ndarray, settings: Settings, classifier: nn.Module, device: torch.device
) -> list[np.ndarray]:
    """CAMs of one case by each method of the settings, as :func:`case_cam` makes them; the ROI's method first."""
    mapped, size, weighted = mapped_slices(label, settings.cam), settings.classifier.image_size, settings.cam.weighted
    return [
        case_cam(slices, mapped, size, method, device, weighted=weighted)
        for method in cam_methods(settings.cam, classifier, settings.seed)
    ]


def _method(name: CamName, settings: CamSettings, classifier: nn.Module, seed: int) -> CamMethod:
    if name == "layercam":
        return LayerCam(classifier, settings.layers, settings.target)
    from pseudo_labeling.library_cam import LIBRARY, LibraryCam  # brings matplotlib and scikit-learn: a second

    return LibraryCam(LIBRARY[name], classifier, settings.layers, seed, settings.target)
