"""Slice classifier trained on the slice labels (paper 2.1.1 and 3.1); its CAMs find the tumour."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from dataset_conversion.errors import UserError
from pseudo_labeling.backbones import build_backbone
from pseudo_labeling.precision import bfloat16_autocast
from pseudo_labeling.settings import ClassifierSettings

if TYPE_CHECKING:
    from pseudo_labeling.weights.models import ClipBundle

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED_AT_ONCE = 64  # slices; as floats, all slices of a long scan take gigabytes
Augmentation = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


class SliceClassifier(nn.Module):
    """A backbone with two outputs: slices `(n, 1, s, s)`, grey, or `(n, 3, s, s)` in [0, 1] to logits `(n, 2)`.

    The second logit is that of a tumour, or of whatever the label 1 stands for.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.backbone((inputs - self.mean) / self.std)
        return logits


def build_classifier(
    settings: ClassifierSettings, clip: ClipBundle | None, weights: dict[str, torch.Tensor] | None, seed: int
) -> tuple[SliceClassifier, str]:
    """Make the classifier the settings name.

    Args:
        settings: backbone name.
        clip: where `clip` and `auto` find CLIP's image tower.
        weights: state dict of the backbone, used where that is not CLIP's tower; None to start at random.
        seed: of the freshly initialised layers.

    Returns:
        The classifier and what its weights come from, for the record.

    Raises:
        UserError: unknown backbone, weights of another, or `clip` where the tower is no ResNet.
    """
    torch.manual_seed(seed)
    trunk = getattr(clip.model.visual, "trunk", None) if clip is not None else None
    tower_fits = isinstance(trunk, timm.models.resnet.ResNet)
    name = settings.backbone
    if name == "auto":
        name = "clip" if tower_fits else "resnet50"
    if name == "clip":
        if clip is None or trunk is None or not tower_fits:
            raise UserError("settings.classifier.backbone: this CLIP's image tower is no ResNet; name another")
        backbone = copy.deepcopy(trunk)
        backbone.reset_classifier(2)
        mean, std = (tuple(getattr(clip.model.visual, f"image_{k}", None) or v) for k, v in _clip_defaults())
        return SliceClassifier(backbone, mean, std), f"CLIP image tower ({clip.name})"
    backbone, origin = build_backbone(name, settings.image_size, weights)
    return SliceClassifier(backbone, IMAGENET_MEAN, IMAGENET_STD), origin


def _clip_defaults() -> tuple[tuple[str, tuple[float, ...]], ...]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return ("mean", OPENAI_DATASET_MEAN), ("std", OPENAI_DATASET_STD)


def classifier_slices(images: np.ndarray, size: int) -> np.ndarray:
    """Slices at the classifier's size: `(z, y, x)` or `(z, y, x, 3)` uint8 to edges of `size` pixels."""
    resized = np.empty((len(images), size, size, *images.shape[3:]), dtype=np.uint8)
    for start in range(0, len(images), RESIZED_AT_ONCE):
        part = _channels_first(images[start : start + RESIZED_AT_ONCE]).float()
        part = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        found = part.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        resized[start : start + RESIZED_AT_ONCE] = found[..., 0] if images.ndim == 3 else found
    return resized


def classifier_input(slices: np.ndarray) -> torch.Tensor:
    """`(n, s, s)` or `(n, s, s, 3)` uint8 to the network's input, `(n, 1 or 3, s, s)` float32 in [0, 1]."""
    return _channels_first(slices).float() / 255


def _channels_first(slices: np.ndarray) -> torch.Tensor:
    found = torch.from_numpy(np.ascontiguousarray(slices))
    return found[:, None] if found.ndim == 3 else found.permute(0, 3, 1, 2)


@dataclass
class TrainingState:
    """Where a training stands after an epoch: enough to go on, bit for bit, after a kill."""

    epoch: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)  # a held-out loss is None without samples
    model: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    best_model: dict[str, Any] | None = None


def train_classifier(
    model: SliceClassifier,
    slices: np.ndarray,
    labels: np.ndarray,
    held_out: np.ndarray,
    settings: ClassifierSettings,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    augmentation: Augmentation | None = None,
    state: TrainingState | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    title: str = "classifier",
) -> TrainingState:
    """Train with cross entropy and Adam; stop early on the loss over held-out *pseudo*-labels (no mask is seen).

    With nothing held out every epoch is trained and the last one kept.

    Computes in bfloat16 where the device has it; on a CPU that is 2.6 times as fast, with the channels last in memory.
    All chance of an epoch comes from the seed and the epoch's number: a resumed training equals an uninterrupted one.

    Args:
        model: left with the weights of its best epoch.
        slices: `(n, s, s)` or `(n, s, s, 3)` uint8.
        labels: `(n,)` 0 or 1.
        held_out: `(n,)` bool, samples that judge and do not train.
        settings: learning rate, batch size, epochs, patience.
        augmentation: called with a batch `(b, s, s)`, its sample indices and a generator.
        state: where an interrupted training stopped.
        on_epoch: called with the state after every epoch, to save it.

    Returns:
        The final state.

    Raises:
        UserError: the training diverged: no epoch has a loss that is a number.
    """
    device = torch.device(device)
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    state = state or TrainingState()
    if state.model is not None and state.optimizer is not None:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
    training, judging = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    # classes weigh the same whatever their share: most slices of a brain are normal
    weight = torch.tensor(
        [len(training) / max(2 * int((labels[training] == c).sum()), 1) for c in (0, 1)], device=device
    ).float()
    while state.epoch < settings.epochs and state.epoch - state.best_epoch < max(settings.patience, 1):
        epoch = state.epoch
        rng = np.random.default_rng([seed, epoch])
        torch.manual_seed(int(rng.integers(2**31)))
        order = rng.permutation(training)
        model.train()
        losses = []
        batches = range(0, len(order), settings.batch_size)
        for start in tqdm(batches, desc=f"{title}, epoch {epoch + 1}", unit="batch", leave=False):
            samples = order[start : start + settings.batch_size]
            if len(samples) == 1 and len(order) > 1:
                continue  # batch norm has no variance over one sample
            batch = slices[samples]
            if augmentation is not None:
                batch = augmentation(batch, samples, rng)
            inputs = flipped(classifier_input(batch), rng).to(device)
            with bfloat16_autocast(device):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), torch.from_numpy(labels[samples]).to(device), weight=weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        held_out_loss = evaluate_loss(model, slices[judging], labels[judging], weight, device) if len(judging) else None
        state.epoch = epoch + 1
        train_loss = float(np.mean(losses))
        state.history.append({"epoch": epoch + 1, "train_loss": train_loss, "held_out_loss": held_out_loss})
        state.model = _cpu_copy(model.state_dict())
        state.optimizer = optimizer.state_dict()
        judged_by = train_loss if held_out_loss is None else held_out_loss
        if np.isfinite(judged_by) and (held_out_loss is None or held_out_loss < state.best_loss):
            state.best_loss, state.best_epoch, state.best_model = judged_by, epoch + 1, state.model
        shown = "none" if held_out_loss is None else f"{held_out_loss:.4f}"
        logger.info("%s, epoch %d: loss %.4f, held-out %s", title, epoch + 1, train_loss, shown)
        if on_epoch is not None:
            on_epoch(state)
    if state.best_model is None:
        raise UserError(
            f"{title}: the training diverged, no epoch has a loss that is a number; lower "
            f"settings.classifier.learning_rate (now {settings.learning_rate:g})"
        )
    model.load_state_dict(state.best_model)
    model.eval()
    return state


@torch.inference_mode()
def evaluate_loss(
    model: SliceClassifier, slices: np.ndarray, labels: np.ndarray, weight: torch.Tensor, device: torch.device
) -> float:
    """Mean weighted cross entropy over samples, of which there is at least one."""
    model.eval()
    with bfloat16_autocast(device):
        logits = [model(classifier_input(slices[s : s + 32]).to(device)).float() for s in range(0, len(slices), 32)]
    return float(F.cross_entropy(torch.cat(logits), torch.from_numpy(labels).to(device), weight=weight))


def flipped(inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirror half of a batch left to right: a brain is nearly symmetric, a tumour can be on either side."""
    mirror = torch.from_numpy(rng.random(len(inputs)) < 0.5)
    return torch.where(mirror[:, None, None, None], inputs.flip(-1), inputs)


def held_out_cases(case_of: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose samples for early stopping, by whole cases so that neighbouring slices do not leak.

    Args:
        case_of: `(n,)` case name of each sample.
        fraction: share of the cases.

    Returns:
        `(n,)` bool; with fewer than three cases, a share of the samples instead. At least one sample is held out, and
        at least one is not, unless `fraction` is 0: then none is.
    """
    rng = np.random.default_rng([seed, 7])
    cases = np.unique(case_of)
    if fraction == 0 or len(case_of) < 2:
        return np.zeros(len(case_of), dtype=bool)
    if len(cases) < 3:
        count = min(max(1, round(fraction * len(case_of))), len(case_of) - 1)
        return np.isin(np.arange(len(case_of)), rng.permutation(len(case_of))[:count])
    chosen = rng.permutation(cases)[: min(max(1, round(fraction * len(cases))), len(cases) - 1)]
    return np.isin(case_of, chosen)


def _cpu_copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
