"""CAM methods of `pytorch_grad_cam` behind the interface of our own.

Its LayerCAM gives what ours does (a test compares them); ours stays the default because it computes in bfloat16 and
keeps its arrays on the device.
"""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    RandomCAM,
    ScoreCAM,
)
from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from pseudo_labeling.cam import CamMethod, Target

LIBRARY: dict[str, type[BaseCAM]] = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "eigencam": EigenCAM,
    "eigengradcam": EigenGradCAM,
    "ablationcam": AblationCAM,
    "scorecam": ScoreCAM,
    "randomcam": RandomCAM,  # a control: random weights of the channels
}
_EIGEN = (EigenCAM, EigenGradCAM)
_FORWARD_PASSES = (AblationCAM, ScoreCAM)  # one for each channel: slow, and with a progress bar for each slice


class LibraryCam(CamMethod):
    """A method of `pytorch_grad_cam`, layer by layer, without its rescaling of the range.

    The library stretches each map from its minimum to its maximum and averages layers; here a map is divided by its
    maximum and layers are multiplied, as for LayerCAM, so that methods differ in nothing else. Computes in float32.

    Args:
        method: its class.
        classifier, layers, target: as for :class:`~pseudo_labeling.cam.CamMethod`.
        seed: of RandomCAM, whose weights depend on the slices too, so that they do not depend on the cases before.
    """

    def __init__(
        self,
        method: type[BaseCAM],
        classifier: nn.Module,
        layers: Sequence[str],
        seed: int = 0,
        target: Target = "tumour",
    ) -> None:
        # AblationCAM puts a layer of its own into the network, and gradients gather in the weights
        super().__init__(copy.deepcopy(classifier), layers, target)
        self.method = type(f"Plain{method.__name__}", (_Plain, method), {})
        self.seed = seed

    def layer_maps(self, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The maps of :class:`~pseudo_labeling.cam.CamMethod`; each layer takes the passes that the method needs."""
        maps, logits = [], inputs.new_zeros(len(inputs), 2)
        if self.target == "predicted":
            with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
                logits = self.classifier(inputs)
        targets = [ClassifierOutputTarget(int(number)) for number in self.explained(logits)]
        for layer in self.layers:
            with self._undisturbed(inputs), self._made(layer) as cam:
                found = cam(inputs, targets)
                logits = cam.outputs
                maps.append(torch.from_numpy(found).to(inputs.device))
            if len(maps) == 0:  # the library's `with` swallows an IndexError
                raise RuntimeError(f"{self.method.__name__}: no map")
        self.classifier.zero_grad(set_to_none=True)
        return maps, logits

    def _made(self, layer: nn.Module) -> BaseCAM:
        arguments: dict[str, Any] = {"model": self.classifier, "target_layers": [layer]}
        arguments["reshape_transform"] = self.spatial
        if issubclass(self.method, AblationCAM):
            tokens = not isinstance(layer, nn.Conv2d) and self._gives_tokens(layer)
            arguments["ablation_layer"] = AblationLayerVit() if tokens else AblationLayer()
        return self.method(**arguments)

    def _gives_tokens(self, layer: nn.Module) -> bool:
        return self.channels_last or isinstance(layer, nn.LayerNorm)

    @contextlib.contextmanager
    def _undisturbed(self, inputs: torch.Tensor) -> Iterator[None]:
        """Float32, for numpy; no bars; and a seed for RandomCAM, which draws from numpy's global generator."""
        state = np.random.get_state()
        slices = zlib.crc32(inputs.detach().cpu().numpy().tobytes())
        np.random.seed(np.random.SeedSequence([self.seed, slices]).generate_state(1))
        bars = io.StringIO() if issubclass(self.method, _FORWARD_PASSES) else sys.stderr
        float32 = torch.autocast(inputs.device.type, enabled=False)
        try:
            with contextlib.redirect_stderr(bars), torch.enable_grad(), float32:
                yield
        finally:
            np.random.set_state(state)


class _Plain(BaseCAM):
    """Keeps the library from stretching, resizing and averaging maps."""

    def compute_cam_per_layer(
        self, input_tensor: torch.Tensor, targets: list[nn.Module], eigen_smooth: bool
    ) -> list[np.ndarray]:
        seen = self.activations_and_grads
        activation = seen.activations[0].numpy()
        gradient = seen.gradients[0].numpy() if seen.gradients else None
        found = self.get_cam_image(input_tensor, self.target_layers[0], targets, activation, gradient, eigen_smooth)
        if isinstance(self, _EIGEN):  # the sign of a principal component is arbitrary: its larger side is the object
            turn = np.abs(found.min((1, 2))) > found.max((1, 2))
            found = np.where(turn[:, None, None], -found, found)
        return [np.maximum(found, 0).astype(np.float32)]

    def aggregate_multi_layers(self, cam_per_target_layer: list[np.ndarray]) -> np.ndarray:
        return cam_per_target_layer[0]
