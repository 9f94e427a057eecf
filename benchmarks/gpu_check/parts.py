"""What is measured, in which order, and for how long at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Save = Callable[[dict[str, Any]], None]
SECONDS = 530  # of everything, so that it ends within nine minutes; a part gets what is left where that is less
SMALL_SECONDS = 600  # of a part of a small run, which takes seconds where the machine has nothing else to do


@dataclass(frozen=True)
class Job:
    """What a part is told.

    Attributes:
        device: `cuda` or `cpu`.
        small: tiny sizes, which show that everything runs and measure nothing.
        scans, masks: folders of the user's, for the part that trains on them.
        seconds: after which the part is stopped.
    """

    device: str
    small: bool
    scans: str | None
    masks: str | None
    seconds: float

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Part:
    """One measurement in a process of its own; its module has `measure(job, save)`, which saves as it goes."""

    name: str
    title: str
    seconds: float

    def measure(self, job: Job, save: Save) -> dict[str, Any]:
        """What the part found; `save` gets what is known so far after each step."""
        found: dict[str, Any] = import_module(f"benchmarks.gpu_check.{self.name}").measure(job, save)
        return found


PARTS = (
    Part("encoder", "SAM ViT-B's image encoder", 85),
    Part("trainers", "A step of CLISCTrainer against one of nnUNetTrainer", 95),
    Part("labelling", "Labelling, ours against one slice at a time", 140),
    Part("stages", "Slices a second of single stages", 50),
    Part("scans", "CLISCTrainer on scans, scored against masks", 170),
)
BY_NAME = {part.name: part for part in PARTS}
