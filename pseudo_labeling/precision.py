"""Where a device has fast bfloat16, and how to compute in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: GPUs from Ampere on, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(device.type == "cpu" and supported())


def bfloat16_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where :func:`has_bfloat16`, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if has_bfloat16(device) else nullcontext()
