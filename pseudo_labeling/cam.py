"""Class activation maps of the slice classifier: LayerCAM (paper 2.1.1, Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dataset_conversion.errors import UserError
from pseudo_labeling.classifier import classifier_input, classifier_slices
from pseudo_labeling.precision import bfloat16_autocast

BATCH = 16


class LayerCam:
    """LayerCAM of one or more layers of a classifier.

    The map of a layer is `ReLU(sum_k ReLU(dlogit_tumour/dA_k) * A_k)` over its channels k (Jiang et al., TIP 2021, the
    paper's [14]; Eq. 2 of the paper writes the activation as a weight `w_k`). Several layers are fused by the geometric
    mean of their maps, each scaled to a maximum of 1: a place must be marked by all of them.
    """

    def __init__(self, classifier: nn.Module, layers: Sequence[str]) -> None:
        self.classifier = classifier.eval()
        modules = dict(classifier.named_modules())
        self.layers = []
        for name in layers:
            matches = [m for n, m in modules.items() if n == name or n.endswith(f".{name}")]
            if len(matches) != 1:
                raise UserError(f"settings.cam.layers: the classifier has {len(matches)} layers named '{name}'")
            self.layers.append(matches[0])

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps of the tumour class.

        Args:
            inputs: `(n, 1, s, s)` float in [0, 1].

        Returns:
            `(n, s, s)` float32 in [0, 1], each map's maximum 1 (0 where nothing speaks for a tumour).
        """
        return self.with_probability(inputs)[0]

    def with_probability(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps of :meth:`__call__`, and the classifier's probability of a tumour, `(n,)`, from the same pass."""
        activations: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, output: activations.append(output)) for layer in self.layers
        ]
        try:
            with torch.enable_grad():
                logits = self.classifier(inputs.requires_grad_(True))
                gradients = torch.autograd.grad(logits[:, 1].sum(), activations)
        finally:
            for hook in hooks:
                hook.remove()
        fused: torch.Tensor | None = None
        for activation, gradient in zip(activations, gradients, strict=True):
            layer_map = F.relu((F.relu(gradient.float()) * activation.detach().float()).sum(dim=1))
            layer_map = F.interpolate(
                scaled_to_one(layer_map)[:, None], size=inputs.shape[-2:], mode="bilinear", align_corners=False
            )[:, 0]
            fused = layer_map if fused is None else fused * layer_map
        if fused is None:
            raise UserError("settings.cam.layers: name at least one layer")
        return scaled_to_one(fused ** (1 / len(self.layers))), logits.detach().float().softmax(dim=1)[:, 1]


def scaled_to_one(maps: torch.Tensor) -> torch.Tensor:
    """Divide each map `(n, y, x)` by its maximum; maps of zeros stay zero."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def case_cam(
    slices: np.ndarray,
    label: np.ndarray,
    image_size: int,
    cam: LayerCam,
    device: torch.device | str,
    *,
    weighted: bool = False,
) -> np.ndarray:
    """CAMs of the tumour slices of one case, at the slices' own size; in bfloat16 where the device has it.

    Args:
        slices: `(z, y, x)` uint8.
        label: `(z,)`, 1 = tumour; slices labelled 0 get no map.
        image_size: edge in pixels that the classifier sees.
        cam: the method.
        weighted: multiply each map by the classifier's probability, so that slices of a case can be compared.

    Returns:
        `(z, y, x)` float16 in [0, 1].
    """
    maps = np.zeros(slices.shape, dtype=np.float16)
    todo = np.flatnonzero(label)
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        inputs = classifier_input(classifier_slices(slices[batch], image_size)).to(device)
        with bfloat16_autocast(torch.device(device)):
            found, probability = cam.with_probability(inputs)
        if weighted:
            found = found * probability[:, None, None]
        found = F.interpolate(found[:, None], size=maps.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        maps[batch] = found.cpu().numpy().astype(np.float16)
    return maps
