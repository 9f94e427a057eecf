"""Does a CAM show what its classifier uses? Randomised weights, deletion and insertion curves, the pointing game."""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import nn

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
    classifier: SliceClassifier,
    inputs: torch.Tensor,
    order: torch.Tensor,
    steps: int = STEPS,
    *,
    target: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of a class while pixels are taken away or given, most important first (Petsiuk et al., BMVC 2018).

    Both curves run between the slice and a slice whose head has its median everywhere: no black hole is made, no lesion
    is left, and air stays air. (A blurred slice, as in that paper, would keep a large lesion.)

    Args:
        classifier: on the device of `inputs`.
        inputs: `(n, 1, s, s)` or, in colours, `(n, 3, s, s)` float in [0, 1].
        order: `(n, s, s)`, higher = more important, e.g. a CAM.
        steps: of equal shares of the pixels.
        target: `(n,)` int, number of the class; by default that of a tumour, 1.

    Returns:
        deletion and insertion curve, each `(n, steps + 1)` in [0, 1].
    """
    flat = inputs.flatten(2)  # a value a channel and pixel; a pixel is head where any channel is
    head = (flat > HEAD_LEVEL / 255).any(dim=1, keepdim=True)
    median = torch.where(head, flat, torch.nan).nanmedian(dim=2, keepdim=True).values.nan_to_num(0.0)
    empty = torch.where(head, median, flat)
    ranked = order.reshape(len(inputs), -1).to(flat.device).argsort(dim=1, descending=True)
    explained = (torch.ones(len(inputs), dtype=torch.int64) if target is None else target).to(flat.device)[:, None]
    curves: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for step in range(steps + 1):
        chosen = torch.zeros_like(ranked, dtype=torch.bool)
        chosen = chosen.scatter_(1, ranked[:, : round(step / steps * ranked.shape[1])], True)[:, None]
        images = torch.where(chosen, empty, flat), torch.where(chosen, flat, empty)
        for curve, image in zip(curves, images, strict=True):
            probability = classifier(image.reshape(inputs.shape)).softmax(dim=1)
            curve.append(probability.gather(1, explained)[:, 0].cpu())
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
