"""What the two trainings share: a time-limited run with checkpoints and log, augmentation, export of the weights."""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from dataset_conversion.errors import UserError
from dataset_conversion.files import sha256_of, whole, write_json
from tools.embedded.pool import HELD_OUT_STREAM, make_pool

logger = logging.getLogger(__name__)

_LOG_SECONDS, _SAVE_SECONDS = 300, 240
_AVERAGE_DECAY = 0.995  # weights averaged over the last few hundred steps: they generalise better than the last ones


def arguments(description: str | None, minutes: float, control: str | None = None) -> argparse.Namespace:
    """The command line of the training scripts; `control` says what the flag of that name does, where there is one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=minutes, help="training time, without making the phantoms")
    parser.add_argument("--phantoms", type=int, default=16000, help="slices of the pool")
    parser.add_argument("--pool", type=Path, required=True, help="folder for the phantom pool, about 3 GB")
    parser.add_argument("--start", type=Path, help="safetensors to go on from (default: random weights)")
    parser.add_argument("--rate", type=float, help="peak learning rate (default: what suits random weights)")
    parser.add_argument("--device", default="cpu")
    if control is not None:
        parser.add_argument("--control", action="store_true", help=control)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for checkpoint, log and weights")
    return parser.parse_args()


class Clock:
    """Training time as the schedule: progress 0 to 1, also across a resumed run."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.minutes, self.started = minutes, time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds trained so far."""
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the time is over."""
        return min(self.spent / (60 * self.minutes), 1.0)

    def rate(self, peak: float) -> float:
        """Learning rate: short linear warm-up, then a cosine to zero."""
        warm = min(self.progress / 0.03, 1.0)
        return peak * warm * (0.5 + 0.5 * math.cos(math.pi * self.progress)) + 1e-6


def _running_average(average: Tensor, current: Tensor, _count: Tensor | int) -> Tensor:
    """Exponential average; counters are copied, and so is what is equal: CLIP's attention mask holds -inf."""
    if not average.is_floating_point():
        return current
    return torch.where(average == current, current, average.lerp(current, 1 - _AVERAGE_DECAY))


class Run:
    """One training: pools, optimiser, schedule, checkpoint, log, export; goes on where a killed one stopped.

    What is measured and exported is :attr:`averaged`, the running average of the model's weights.

    Args:
        options: from :func:`arguments`.
        name: of the model to export, `clip` or `sam`.
        networks: all that is trained, `networks[name]` among them; already on the device.
        peak_rate: learning rate at its highest, unless `--rate` names another.
        weight_decay: of the parameters with more than one dimension.
        largest_norm: to which gradients are clipped.
        make: the pool.
        held_out: samples of the held-out pool.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        name: str,
        networks: dict[str, nn.Module],
        *,
        peak_rate: float,
        weight_decay: float,
        largest_norm: float,
        make: Callable[..., Any] = make_pool,
        held_out: int = 512,
    ) -> None:
        self.name, self.networks, self.output = name, networks, options.output
        self.peak_rate, self.largest_norm = options.rate or peak_rate, largest_norm
        self.output.mkdir(parents=True, exist_ok=True)
        self.training = make(options.pool / "training", options.phantoms, seed=options.seed)
        self.held_out = make(options.pool / "held_out", held_out, seed=options.seed, stream=HELD_OUT_STREAM)
        self.device = torch.device(options.device)
        self.checkpoint = self.output / "checkpoint.pt"
        self.step, self.seen, spent = 0, 0, 0.0
        self.parameters = [p for network in networks.values() for p in network.parameters()]
        groups = [(weight_decay, [p for p in self.parameters if p.ndim > 1])]
        groups.append((0.0, [p for p in self.parameters if p.ndim <= 1]))
        self.optimiser = torch.optim.AdamW([{"params": found, "weight_decay": decay} for decay, found in groups])
        self.fresh = options.start is None and not self.checkpoint.is_file()
        if options.start is not None:
            start = load_file(options.start, device=options.device)
            if start.keys() != _once(networks[name]):
                raise UserError(f"--start {options.start}: weights of another network; give a {name}.safetensors")
            networks[name].load_state_dict(start, strict=False)
        self._average = AveragedModel(networks[name], avg_fn=_running_average, use_buffers=True)
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            for key, network in networks.items():
                network.load_state_dict(state[key])
            self.optimiser.load_state_dict(state["optimiser"])
            self._average.load_state_dict(state["average"])
            self.step, self.seen, spent = state["step"], state["seen"], state["spent"]
        self.rng = np.random.default_rng([options.seed, self.step])
        self.clock, self._spent = Clock(options.minutes, spent), spent
        self._logged = self._saved = spent

    def __iter__(self) -> Iterator[np.random.Generator]:
        """Until the time is over, the source of the next step's randomness; the clock starts with the first."""
        self.clock = Clock(self.clock.minutes, self._spent)
        while self.clock.progress < 1:
            for group in self.optimiser.param_groups:
                group["lr"] = self.clock.rate(self.peak_rate)
            yield self.rng

    def update(self, loss: Tensor, images: int) -> None:
        """One step of the optimiser on a batch of so many images."""
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.largest_norm)
        self.optimiser.step()
        self._average.update_parameters(self.networks[self.name])
        self.step += 1
        self.seen += images

    @property
    def averaged(self) -> nn.Module:
        """The model with averaged weights."""
        module: nn.Module = self._average.module
        return module

    def report(self, facts: dict[str, float], metrics: Callable[[], dict[str, float]]) -> None:
        """Print `facts` now and then, with the held-out metrics every few minutes, and save as often."""
        facts = {"step": self.step, "seconds": self.clock.spent, **facts}
        if self.clock.spent - self._logged > _LOG_SECONDS:
            self._logged = self.clock.spent
            logger.info(log_line(self.output, **facts, **metrics()))
        elif self.step % 20 == 0:
            logger.info(", ".join(f"{key} {value:.3g}" for key, value in facts.items()))
        if self.clock.spent - self._saved > _SAVE_SECONDS:
            self._saved = self.clock.spent
            state = {key: network.state_dict() for key, network in self.networks.items()}
            state["optimiser"] = self.optimiser.state_dict()
            state["average"] = self._average.state_dict()
            save_checkpoint(self.checkpoint, **state, step=self.step, seen=self.seen, spent=self.clock.spent)
            export_weights(self.averaged, self.name, self.output)

    def finish(self, metrics: Callable[[], dict[str, float]]) -> None:
        """Export, and log what was reached with the file's SHA-256."""
        digest = export_weights(self.averaged, self.name, self.output)
        facts = {"step": self.step, "images": self.seen, "seconds": self.clock.spent}
        logger.info(log_line(self.output, **facts, **metrics(), sha256=digest))


def augment(
    images: Tensor, masks: Tensor, rng: np.random.Generator, zoom: tuple[float, float], size: int
) -> tuple[Tensor, Tensor]:
    """Random flips, turns, zooms, shifts, gains, gammas and noise.

    Args:
        images: `(n, c, h, w)` float in 0-255; the channels (twins) get the same changes.
        masks: `(n, m, h, w)` float.
        rng: source of randomness.
        zoom: smallest and largest magnification.
        size: edge of the result in pixels.

    Returns:
        images `(n, c, size, size)` and masks `(n, m, size, size)`.
    """
    n = len(images)
    angle = torch.tensor(rng.normal(0, math.radians(8), n), dtype=torch.float32)
    scale = torch.tensor(np.exp(rng.uniform(math.log(zoom[0]), math.log(zoom[1]), n)), dtype=torch.float32)
    stretch = torch.tensor(np.exp(rng.normal(0, 0.06, n)), dtype=torch.float32)
    flip = torch.tensor(rng.choice([-1.0, 1.0], n), dtype=torch.float32)
    shift = torch.tensor(rng.normal(0, 0.05, (n, 2)), dtype=torch.float32)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([flip * cos * stretch, sin, shift[:, 0]], 1), torch.stack([-flip * sin, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [n, 1, size, size], align_corners=False).to(images.device)
    both = torch.cat([images, masks * 255], 1)
    if size * 2 <= both.shape[-1]:
        both = F.avg_pool2d(both, 2)  # against aliasing
    both = F.grid_sample(both, grid, align_corners=False)
    images, masks = both[:, : images.shape[1]], both[:, images.shape[1] :] / 255

    def each(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=images.device).view(n, 1, 1, 1)

    images = 255 * (images / 255).clamp(0, 1) ** each(np.exp(rng.normal(0, 0.2, n)))
    images = images * each(np.exp(rng.normal(0, 0.2, n)))
    noise = torch.randn(n, 1, *images.shape[2:], device=images.device)  # twins share their noise
    images = images + noise * each(rng.uniform(0, 4, n) * (rng.random(n) < 0.3))
    return images.clamp(0, 255).round(), masks


def save_checkpoint(path: Path, **state: Any) -> None:
    """Write a checkpoint whole or not at all."""
    with whole(path) as temporary:
        torch.save(state, temporary)


def export_weights(model: nn.Module, name: str, folder: Path) -> str:
    """Write `name`.safetensors in half precision and its entry in `weights.json`.

    Returns:
        SHA-256 of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    once = _once(model)
    state = {name: value for name, value in model.state_dict().items() if name in once}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    path = folder / f"{name}.safetensors"
    with whole(path) as temporary:
        save_file(tensors, temporary)
    digest = sha256_of(path)
    table_path = folder / "weights.json"
    table = json.loads(table_path.read_text()) if table_path.is_file() else {}
    table[name] = {"file": path.name, "sha256": digest}
    write_json(table_path, dict(sorted(table.items())))
    return digest


def _once(model: nn.Module) -> set[str]:
    """Names of a model's weights, each once: nnU-Net's U-Nets list some parts three times."""
    each = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return each & model.state_dict().keys()


def log_line(folder: Path, **facts: Any) -> str:
    """Append one JSON line to `log.jsonl` and return it."""
    line = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in facts.items()})
    with (folder / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    return line
