"""Does a CAM show what its classifier uses? Randomised weights, deletion and insertion curves, the pointing game."""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import nn
from torch.nn import functional as F

from pseudo_labeling.classifier import SliceClassifier
from pseudo_labeling.slice_labels import HEAD_LEVEL

STEPS = 20  # of the curves


def randomised(classifier: SliceClassifier, seed: int) -> SliceClassifier:
    """The same network with all weights drawn anew: what its CAM still shows comes from the image, not from learning.

    Model parameter randomisation (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018). Batch normalisation
    takes its statistics from each batch, since without any training it has none.

    Args:
        classifier: left as it is.
        seed: of the weights.
    """
    model = copy.deepcopy(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None
    return model.eval()


@torch.inference_mode()
def deletion_and_insertion(
    classifier: SliceClassifier, inputs: torch.Tensor, order: torch.Tensor, steps: int = STEPS
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of a tumour while pixels are taken away or given, most important first (Petsiuk et al., BMVC 2018).

    Deleted pixels take the median of the slice's head, so that no black hole is made; insertion begins with a slice so
    blurred that no lesion is left.

    Args:
        classifier: on the device of `inputs`.
        inputs: `(n, 1, s, s)` float in [0, 1].
        order: `(n, s, s)`, higher = more important, e.g. a CAM.
        steps: of equal shares of the pixels.

    Returns:
        deletion and insertion curve, each `(n, steps + 1)` in [0, 1].
    """
    count, size = len(inputs), inputs.shape[-1]
    flat = inputs.reshape(count, -1)
    head = torch.where(flat > HEAD_LEVEL / 255, flat, torch.nan)
    fill = head.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0).expand_as(flat)
    blurred = _blurred(inputs, size // 10).reshape(count, -1)
    ranked = order.reshape(count, -1).to(flat.device).argsort(dim=1, descending=True)
    curves: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for step in range(steps + 1):
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen.scatter_(1, ranked[:, : round(step / steps * flat.shape[1])], True)
        for curve, image in zip(
            curves, (torch.where(chosen, fill, flat), torch.where(chosen, flat, blurred)), strict=True
        ):
            curve.append(classifier(image.reshape(inputs.shape)).softmax(dim=1)[:, 1].cpu())
    deletion, insertion = (torch.stack(curve, dim=1).numpy() for curve in curves)
    return deletion, insertion


def area(curves: np.ndarray) -> np.ndarray:
    """Area under each curve `(n, k)` over shares from 0 to 1, `(n,)`."""
    result: np.ndarray = trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1)
    return result


def hits(cam: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pointing game (Zhang et al., IJCV 2018): does each slice's highest value lie in its mask?

    Args:
        cam: `(z, y, x)`.
        mask: `(z, y, x)` bool; slices without a lesion or a map do not count.

    Returns:
        `(n,)` bool, one for each slice that counts.
    """
    counted = [z for z in range(len(cam)) if mask[z].any() and cam[z].any()]
    return np.array([mask[z].ravel()[int(cam[z].argmax())] for z in counted], dtype=bool)


def _blurred(inputs: torch.Tensor, radius: int) -> torch.Tensor:
    """Two box filters of `2 radius + 1` pixels."""
    for _ in range(2):
        inputs = F.avg_pool2d(inputs, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    return inputs
