"""Where a command works: the dataset behind `-d` in nnU-Net's folders, and the device behind `-device`."""

from __future__ import annotations

import os
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.target import check_expanded


def raw_dataset(dataset_id: int) -> Path:
    """The folder of a dataset in `nnUNet_raw`.

    Raises:
        UserError: the variable is unset, or no or several folders have that id.
        UserError: the variable begins with a `~` that no shell has replaced.
    """
    root = os.environ.get("nnUNet_raw")
    if not root:
        raise UserError("nnUNet_raw: the environment variable is not set; point it at your folder of raw datasets")
    check_expanded("nnUNet_raw", root)
    found = sorted(p for p in Path(root).glob(f"Dataset{dataset_id:03d}_*") if p.is_dir())
    if len(found) != 1:
        what = "no dataset" if not found else f"{len(found)} datasets"
        raise UserError(
            f"-d {dataset_id}: {root} has {what} Dataset{dataset_id:03d}_*; run `nnUNetv2_clisc convert` first"
        )
    return found[0]


def usable_device(device: str | None) -> str:
    """The device asked for, or CUDA where there is one.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or `mps`; None = CUDA where there is one, else the CPU.

    Raises:
        UserError: not a device, or not there.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return "cuda" if count else "cpu"
    has_mps = torch.backends.mps.is_available()
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count)), *(["mps"] if has_mps else [])]
    if device in there:
        return device
    if device.partition(":")[0] in ("cpu", "cuda", "mps"):
        what = "torch sees no such device here"
        if device.startswith("cuda") and not count:
            what = "torch sees no CUDA device here"
    else:
        what = "not a device; it is cpu, cuda, cuda:N or mps"
    raise UserError(f"-device {device}: {what}; use -device {' or '.join(there)}")


def nnunet_device(device: str | None) -> str:
    """As :func:`usable_device`, for commands that hand the device to nnU-Net, which takes no GPU's number.

    Raises:
        UserError: not a device, not there, or a GPU by its number.
    """
    where = usable_device(device)
    check_without_number(where)
    return where


def check_without_number(device: str | None) -> None:
    """Refuse `cuda:N` where nnU-Net would take GPU 0 instead."""
    kind, colon, number = (device or "").partition(":")
    if colon:
        raise UserError(f"-device {device}: nnU-Net takes no number; set CUDA_VISIBLE_DEVICES={number}, give {kind}")
