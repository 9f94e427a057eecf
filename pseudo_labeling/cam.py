"""Class activation maps of the slice classifier: LayerCAM (paper 2.1.1, Eq. 2), and what other methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dataset_conversion.errors import UserError
from pseudo_labeling.backbones import as_maps, has_channels_last, last_layer
from pseudo_labeling.classifier import classifier_input, classifier_slices
from pseudo_labeling.precision import bfloat16_autocast
from pseudo_labeling.settings import CamSettings

BATCH = 16
Target = Literal["tumour", "predicted"]


class CamMethod(ABC):
    """A way from a classifier to maps of one of its classes; a subclass says what the map of one layer is.

    Several layers are fused by the geometric mean of their maps, each scaled to a maximum of 1: a place must be marked
    by all of them.

    Args:
        classifier: of two classes, tumour the second; put into evaluation mode.
        layers: names of modules, whole or from a dot on; `auto` is the last one with maps.
        target: the class that is explained, the second one or each slice's likelier one.

    Raises:
        UserError: no layer, or none or several of a name.
    """

    def __init__(self, classifier: nn.Module, layers: Sequence[str], target: Target = "tumour") -> None:
        self.classifier = classifier.eval()
        self.target: Target = target
        if not layers:
            raise UserError("settings.cam.layers: name at least one layer")
        self.names = [last_layer(classifier) if name == "auto" else name for name in layers]
        self.channels_last = has_channels_last(classifier)
        self.layers = [self._module(name) for name in self.names]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps of the class that is explained.

        Args:
            inputs: `(n, 1, s, s)` or `(n, 3, s, s)` float in [0, 1].

        Returns:
            `(n, s, s)` float32 in [0, 1], each map's maximum 1 (0 where nothing speaks for the class).
        """
        return self.with_probability(inputs)[0]

    def with_probability(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps of :meth:`__call__`, and the probability of the explained class, `(n,)`, from the same pass."""
        layer_maps, logits = self.layer_maps(inputs)
        fused: torch.Tensor | None = None
        for layer_map in layer_maps:
            full_size = F.interpolate(
                scaled_to_one(layer_map)[:, None], size=inputs.shape[-2:], mode="bilinear", align_corners=False
            )[:, 0]
            fused = full_size if fused is None else fused * full_size
        if fused is None:
            raise RuntimeError("a method without layers")
        logits = logits.detach().float()
        probability = logits.softmax(dim=1).gather(1, self.explained(logits)[:, None])[:, 0]
        return scaled_to_one(fused ** (1 / len(self.layers))), probability

    def explained(self, logits: torch.Tensor) -> torch.Tensor:
        """Number of the class that is explained in each slice, `(n,)`, by its logits `(n, 2)`."""
        likelier = logits.detach().argmax(dim=1)
        return likelier if self.target == "predicted" else torch.ones_like(likelier)

    @abstractmethod
    def layer_maps(self, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """One map a layer, `(n, h, w)` float32, not negative, at the layer's own size; and the logits `(n, 2)`."""

    def spatial(self, output: torch.Tensor) -> torch.Tensor:
        """What a layer gives as `(n, c, h, w)`.

        Raises:
            UserError: it has no places.
        """
        try:
            return as_maps(output, self.channels_last)
        except ValueError as error:
            raise UserError(f"settings.cam.layers: {', '.join(self.names)}: {error}") from None

    def _module(self, name: str) -> nn.Module:
        matches = [m for n, m in self.classifier.named_modules() if n == name or n.endswith(f".{name}")]
        if len(matches) != 1:
            raise UserError(f"settings.cam.layers: the classifier has {len(matches)} layers named '{name}'")
        return matches[0]


class LayerCam(CamMethod):
    """LayerCAM of one or more layers of a classifier.

    The map of a layer is `ReLU(sum_k ReLU(dlogit/dA_k) * A_k)` over its channels k (Jiang et al., TIP 2021, the
    paper's [14]; Eq. 2 of the paper writes the activation as a weight `w_k`).
    """

    def layer_maps(self, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The maps of :class:`CamMethod`, from one forward and one backward pass."""
        activations: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, output: activations.append(output)) for layer in self.layers
        ]
        try:
            with torch.enable_grad():
                logits = self.classifier(inputs.requires_grad_(True))
                chosen = logits.gather(1, self.explained(logits)[:, None])
                gradients = torch.autograd.grad(chosen.sum(), activations)
        finally:
            for hook in hooks:
                hook.remove()
        both = [(self.spatial(a.detach()), self.spatial(g)) for a, g in zip(activations, gradients, strict=True)]
        return [F.relu((F.relu(gradient.float()) * a.float()).sum(dim=1)) for a, gradient in both], logits


def scaled_to_one(maps: torch.Tensor) -> torch.Tensor:
    """Divide each map `(n, y, x)` by its maximum; maps of zeros stay zero."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def check_layers(classifier: nn.Module, layers: Sequence[str], image_size: int) -> None:
    """Find out now, and not after a training, whether a classifier has layers of these names, with places.

    Args:
        classifier: put into evaluation mode.
        layers: as of :class:`CamMethod`.
        image_size: edge in pixels that it sees.

    Raises:
        UserError: it has not.
    """
    LayerCam(classifier, layers)(torch.zeros(1, 1, image_size, image_size))


def mapped_slices(label: np.ndarray, settings: CamSettings) -> np.ndarray:
    """Which slices get a map, `(z,)`, by their labels: the tumour slices, or all of them."""
    return np.ones_like(label) if settings.slices == "all" else label


def case_cam(
    slices: np.ndarray,
    label: np.ndarray,
    image_size: int,
    cam: CamMethod,
    device: torch.device | str,
    *,
    weighted: bool = False,
) -> np.ndarray:
    """CAMs of some slices of one case, at the slices' own size; in bfloat16 where the device has it.

    Args:
        slices: `(z, y, x)` or `(z, y, x, 3)` uint8.
        label: `(z,)`; slices labelled 0 get no map, see :func:`mapped_slices`.
        image_size: edge in pixels that the classifier sees.
        cam: the method.
        weighted: multiply each map by the classifier's probability, so that slices of a case can be compared.

    Returns:
        `(z, y, x)` float16 in [0, 1].
    """
    maps = np.zeros(slices.shape[:3], dtype=np.float16)
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
