"""A share of the cases for one of several processes, as nnU-Net's `-num_parts` and `-part_id` say it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataset_conversion.errors import UserError


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`; the default is everything."""

    index: int = 0
    count: int = 1

    def share(self, cases: Sequence[str]) -> list[str]:
        """Every `count`-th case, as nnU-Net's prediction shares them."""
        return list(cases[self.index :: self.count])

    def split(self, count: int) -> list[Part]:
        """This part in `count` parts of its own."""
        return [Part(self.index + self.count * number, self.count * count) for number in range(count)]

    def arguments(self) -> list[str]:
        """The part as a command line."""
        return ["-num_parts", str(self.count), "-part_id", str(self.index)]

    def __str__(self) -> str:
        return f"part {self.index} of {self.count}"


def resolve_part(num_parts: int | None, part_id: int | None, environment: Mapping[str, str] | None = None) -> Part:
    """The part that was asked for; inside a Slurm array the task's own, unless the flags say otherwise.

    Args:
        num_parts: `-num_parts`, default SLURM_ARRAY_TASK_COUNT, else 1.
        part_id: `-part_id`, default SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN, else 0.
        environment: where Slurm's variables are, `os.environ` when None.

    Raises:
        UserError: a part that does not exist.
    """
    found = os.environ if environment is None else environment
    source = "-part_id"
    if num_parts is None:
        num_parts = int(found.get("SLURM_ARRAY_TASK_COUNT", 1))
    if part_id is None and "SLURM_ARRAY_TASK_ID" in found:
        source = "SLURM_ARRAY_TASK_ID"
        part_id = int(found["SLURM_ARRAY_TASK_ID"]) - int(found.get("SLURM_ARRAY_TASK_MIN", 0))
    part_id = part_id or 0
    if num_parts < 1:
        raise UserError(f"-num_parts {num_parts}: must be 1 or more")
    if not 0 <= part_id < num_parts:
        raise UserError(
            f"{source}: part {part_id} of {num_parts} does not exist; parts count from 0 to {num_parts - 1}"
            + ("; submit an array without gaps, e.g. --array=0-3" if source != "-part_id" else "")
        )
    return Part(part_id, num_parts)
