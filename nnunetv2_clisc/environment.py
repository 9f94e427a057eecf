"""Where a command works: the dataset behind `-d` in nnU-Net's folders, and the device behind `-device`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.target import check_expanded

DATASET_NAME = re.compile(r"Dataset\d{3,}_.+")


def raw_dataset(dataset: int | str | Path) -> Path:
    """The folder of a raw dataset.

    Args:
        dataset: the number or the name `DatasetNNN_NAME` of one in `nnUNet_raw`, or a folder of that name anywhere.

    Raises:
        UserError: as :func:`dataset_in`; or no such folder.
    """
    if isinstance(dataset, int) or (isinstance(dataset, str) and DATASET_NAME.fullmatch(dataset)):
        return dataset_in("nnUNet_raw", dataset, made_by="nnUNetv2_clisc convert")
    folder = Path(dataset).absolute()
    if not (folder.is_dir() and DATASET_NAME.fullmatch(folder.name)):
        raise UserError(f"{dataset}: no dataset; give its number, its name or its folder, e.g. Dataset501_MyScans")
    return folder


def dataset_in(variable: str, dataset: int | str, *, made_by: str) -> Path:
    """The folder of a dataset in one of nnU-Net's folders.

    Args:
        variable: `nnUNet_raw` or another that points at a folder of datasets.
        dataset: number, or name `DatasetNNN_NAME`.
        made_by: the command that makes the dataset there, for the message where it is missing.

    Raises:
        UserError: the variable is unset, or begins with a `~` that no shell has replaced.
        UserError: no dataset of that number or name, or several of one number, which nnU-Net refuses.
    """
    root = os.environ.get(variable)
    if not root:
        raise UserError(f"{variable}: the environment variable is not set; point it at nnU-Net's folder of that name")
    check_expanded(variable, root)
    prefix = f"Dataset{dataset:03d}_" if isinstance(dataset, int) else f"{dataset.partition('_')[0]}_"
    found = sorted(path for path in Path(root).glob(f"{prefix}*") if path.is_dir())
    if not found:
        raise UserError(f"-d {dataset}: {root} has no dataset {prefix}*; run `{made_by}` first")
    names = " and ".join(path.name for path in found)
    if isinstance(dataset, str) and dataset not in [path.name for path in found]:
        raise UserError(f"-d {dataset}: {root} has {names} instead; give that name or {number_of(found[0])}")
    if len(found) > 1:
        raise UserError(f"-d {dataset}: {root} has {names}; nnU-Net takes one dataset a number, so rename the others")
    return found[0]


def number_of(dataset: int | str | Path) -> int:
    """The number of a dataset that exists, also from its name or folder."""
    if isinstance(dataset, int):
        return dataset
    return int(Path(dataset).name.partition("_")[0].removeprefix("Dataset"))


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
