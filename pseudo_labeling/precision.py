"""Where a device has fast bfloat16, and how to compute in it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

# set to 0, everything is computed as on a device without bfloat16; for measuring and testing what those do
SWITCH = "CLISC_BFLOAT16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: GPUs from Ampere on, CPUs with AVX-512 BF16 or AMX."""
    if os.environ.get(SWITCH) == "0":
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(device.type == "cpu" and supported())


def bfloat16_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where :func:`has_bfloat16`, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if has_bfloat16(device) else nullcontext()
