"""Train a start for a small 3D network on phantoms: ``python -m tools.embedded.train_unet --pool DIR -o DIR``.

Strides and upsampling kernels of an nnU-Net follow the patch, which follows the data; one set of weights is trained in
both forms that thin and thick stacks give it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from nnunetv2_clisc.training.plans import architecture
from nnunetv2_clisc.training.start import NETWORK, fitted
from pseudo_labeling.precision import bfloat16_autocast
from tools.embedded.training import Run, arguments
from tools.embedded.volume_pool import load_volume, make_volume_pool

PATCHES = ((16, 96, 96), (32, 96, 96))
BATCH = {16: 4, 32: 2}  # patches, by their depth
STRIPPED_MASKED = 0.8  # share of the skull-stripped scans that are normalised inside the head, as nnU-Net mostly does
logger = logging.getLogger(__name__)


def build(patch: tuple[int, ...]) -> nn.Module:
    """The network as the trainer builds it for this patch, `(z, y, x)` voxels."""
    made = architecture(NETWORK, patch)
    network = get_network_from_plans(
        made["network_class_name"], made["arch_kwargs"], made["_kw_requires_import"], 1, 2, deep_supervision=True
    )
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]


def normalised(scan: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a skull-stripped scan to its head and give it mean 0 and deviation 1, as nnU-Net's preprocessing does."""
    inside = scan > 0
    if inside.mean() > 0.9:
        return (scan - scan.mean()) / scan.std(), mask
    box = tuple(slice(int(found.min()), int(found.max()) + 1) for found in np.nonzero(inside))
    scan, mask, inside = scan[box], mask[box], inside[box]
    if rng.random() < STRIPPED_MASKED:
        return np.where(inside, (scan - scan[inside].mean()) / scan[inside].std(), 0).astype(np.float32), mask
    return (scan - scan.mean()) / scan.std(), mask


def patch_of(scan: np.ndarray, mask: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """A random patch `(2, z, y, x)` of scan and mask: spacing, place, flips, gamma and noise are drawn.

    Half of the patches are centred near the lesion, as nnU-Net oversamples foreground.
    """
    both = torch.from_numpy(np.stack([scan, mask.astype(np.float32)]))
    plane = float(np.exp(rng.uniform(np.log(0.6), np.log(1.25))))  # 128 px of a head frame become 77 to 160
    depth = min(float(np.exp(rng.uniform(np.log(0.7), np.log(1.4)))), 1.0 if scan.shape[0] < 24 else 2.0)
    stretch = float(np.exp(rng.normal(0, 0.06)))
    zoom = (depth, plane * stretch, plane / stretch)
    shape = [max(8, round(edge * z)) for edge, z in zip(scan.shape, zoom, strict=True)]
    both = F.interpolate(both[None], size=shape, mode="trilinear", align_corners=False)[0]
    lesion = torch.nonzero(both[1] > 0.5)
    if len(lesion) and rng.random() < 0.5:
        centre = lesion[int(rng.integers(len(lesion)))].tolist()
    else:
        centre = [int(rng.integers(edge)) for edge in shape]
    out = torch.zeros(2, *size)
    source, target = [slice(None)], [slice(None)]
    for middle, edge, wanted in zip(centre, shape, size, strict=True):
        start = min(max(middle - wanted // 2, 0), edge - wanted) if edge >= wanted else -int((wanted - edge) // 2)
        source.append(slice(max(start, 0), min(start + wanted, edge)))
        target.append(slice(max(-start, 0), max(-start, 0) + source[-1].stop - source[-1].start))
    out[tuple(target)] = both[tuple(source)]
    flipped = [axis + 1 for axis in range(3) if rng.random() < 0.5]
    out = torch.flip(out, flipped) if flipped else out
    image = out[0]
    if rng.random() < 0.4:  # gamma, with mean and deviation kept
        low, high, mean, sd = image.min(), image.max(), image.mean(), image.std()
        image = ((image - low) / (high - low + 1e-6)) ** float(np.exp(rng.normal(0, 0.3)))
        image = (image - image.mean()) / (image.std() + 1e-6) * sd + mean
    if rng.random() < 0.3:
        image = image + torch.randn(image.shape) * float(rng.uniform(0, 0.25))
    image = image * float(np.exp(rng.normal(0, 0.1))) + float(rng.normal(0, 0.05))
    return torch.stack([image, (out[1] > 0.5).float()])


class Start:
    """The network in all its forms, with one set of weights."""

    def __init__(self) -> None:
        self.forms = {patch[0]: build(patch) for patch in PATCHES}
        self.network = build((128, 128, 128))  # upsamples by two on every axis: the other kernels are its means
        self.loss = DC_and_CE_loss(
            {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
            weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss,
        )  # fmt: skip

    def __call__(self, images: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
        form = self.forms[images.shape[2]]
        own: list[Tensor] = functional_call(form, fitted(weights, dict(form.named_parameters())), (images,))
        return own

    def deep_loss(self, outputs: list[Tensor], masks: Tensor) -> Tensor:
        """nnU-Net's loss at every resolution, each half as heavy as the finer one; the coarsest does not count."""
        weights = np.array([0.5**level for level in range(len(outputs) - 1)])
        total = masks.new_zeros(())
        for weight, output in zip(weights / weights.sum(), outputs, strict=False):
            target = F.interpolate(masks, size=output.shape[2:], mode="nearest")
            total = total + float(weight) * self.loss(output.float(), target)
        return total


def main() -> None:
    """Train until the time is over, or go on with an interrupted run."""
    options = arguments(
        __doc__, minutes=60, control="each scan with the mask of another: what is learnt of masks alone"
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    start = Start()
    run = Run(
        options,
        "unet",
        {"unet": start.network},
        peak_rate=2e-3,
        weight_decay=1e-4,
        largest_norm=12,
        make=make_volume_pool,
        held_out=64,
    )
    held_out = [batch_of(run.held_out, size, 16, np.random.default_rng(9)) for size in PATCHES]
    losses: list[float] = []
    for rng in run:
        size = PATCHES[int(rng.integers(len(PATCHES)))]
        images, masks = batch_of(run.training, size, BATCH[size[0]], rng, options.control)
        with bfloat16_autocast(run.device):
            outputs = start(images, dict(start.network.named_parameters()))
        loss = start.deep_loss(outputs, masks)
        run.update(loss, len(images))
        losses = [*losses[-99:], float(loss.detach())]
        run.report({"loss": float(np.mean(losses))}, lambda: measured(start, run.averaged, held_out))
    run.finish(lambda: measured(start, run.averaged, held_out))


def batch_of(
    files: Sequence[Path],
    size: tuple[int, ...],
    count: int,
    rng: np.random.Generator,
    shuffled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Images and masks `(count, 1, z, y, x)` of random cases; `shuffled`, the masks are of other cases."""
    made = []
    for index in rng.integers(len(files), size=count):
        scan, mask = load_volume(files[int(index)])
        if shuffled:
            mask = load_volume(files[int(rng.integers(len(files)))])[1]
            mask = mask[np.linspace(0, len(mask) - 1, len(scan)).round().astype(int)]
        made.append(patch_of(*normalised(scan, mask, rng), size, rng))
    both = torch.stack(made)
    return both[:, :1].to(memory_format=torch.channels_last_3d), both[:, 1:]


@torch.no_grad()
def measured(start: Start, network: nn.Module, held_out: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Dice over the voxels of all held-out patches, by their depth."""
    found = {}
    for images, masks in held_out:
        hits = total = 0.0
        for image, mask in zip(images.split(2), masks.split(2), strict=True):
            foreground = start(image, dict(network.named_parameters()))[0].argmax(1, keepdim=True)
            hits += float((foreground * mask).sum())
            total += float(foreground.sum() + mask.sum())
        found[f"dice_{images.shape[2]}"] = 2 * hits / total
    return found


if __name__ == "__main__":
    main()
