"""Checkpoints without code in them, and a trained fold for nnU-Net without this package."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_conversion.errors import UserError, explain, free_space
from dataset_conversion.files import PARTIAL, read_object, sync

OWN = "nnunetv2_clisc."  # begins the name of a network that nnU-Net lacks


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of ours onto the CPU; tensors and plain values only, so no code in the file can run.

    Raises:
        UserError: missing, truncated, not a checkpoint, or with anything but tensors and plain values in it.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint; train first") from error
    except OSError as error:
        raise UserError(explain(error, path)) from error
    except Exception as error:  # truncated zip, foreign file, pickled code: torch has an exception for each
        raise UserError(f"{path}: not a complete checkpoint of a CLISC trainer; delete it and train again") from error
    if not isinstance(checkpoint, dict) or not {"network_weights", "trainer_name", "init_args"} <= checkpoint.keys():
        raise UserError(f"{path}: not a checkpoint of an nnU-Net trainer; give one written by a CLISC trainer")
    return checkpoint


def plain_values(value: Any) -> Any:
    """NumPy scalars to Python numbers, in nested lists and dicts: what :func:`read_checkpoint` accepts."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_values(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def export_stock(fold_folder: str | Path, out: str | Path) -> Path:
    """Copy a trained fold into a model folder that nnU-Net predicts with when this package is not installed.

    Args:
        fold_folder: `…/CLISCTrainer__nnUNetPlans__3d_fullres/fold_0`.
        out: model folder to create, for `nnUNetv2_predict_from_modelfolder -m`.

    Returns:
        The checkpoint written, which names `nnUNetTrainer` as its trainer.

    Raises:
        UserError: the fold is not trained yet, its network is one of this package's own, or `out` exists.
    """
    fold_folder, out = Path(fold_folder), Path(out)
    if out.exists():
        raise UserError(f"{out}: exists already; name a new folder")
    checkpoint = read_checkpoint(fold_folder / "checkpoint_final.pth")
    network = _network_of(fold_folder.parent / "plans.json", str(checkpoint["init_args"]["configuration"]))
    if network.startswith(OWN):
        raise UserError(
            f"{fold_folder}: its network, {network.rpartition('.')[2]}, is one of this package's own, which nnU-Net "
            f"alone cannot build; copy {fold_folder.parent} to a machine where this package is installed, and predict "
            "with nnUNetv2_predict_from_modelfolder there"
        )
    checkpoint["trainer_name"] = "nnUNetTrainer"
    for leftover in out.parent.glob(f"{PARTIAL}*-{out.name}"):  # of an export that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = out.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{out.name}")
    target = temporary / fold_folder.name / "checkpoint_final.pth"
    try:
        target.parent.mkdir(parents=True)
        torch.save(checkpoint, target)
        for name in ("plans.json", "dataset.json"):
            shutil.copyfile(fold_folder.parent / name, temporary / name)
        for path in (target, target.parent, *temporary.iterdir(), temporary):
            sync(path)
        os.replace(temporary, out)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        words = " ".join(str(error).split())[:100]  # torch calls a full disk a RuntimeError
        raise UserError(
            f"{out}: could not be written whole ({words}; {free_space(out)}); make room and run the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(out.parent)
    return out / fold_folder.name / "checkpoint_final.pth"


def _network_of(plans: Path, configuration: str) -> str:
    """The class of a model's network, of the configuration or what that inherits from; nothing where none is named."""
    configurations = read_object(plans).get("configurations", {})
    found = configurations.get(configuration, {})
    while "architecture" not in found and found.get("inherits_from") in configurations:
        found = configurations[found["inherits_from"]]
    return str(found.get("architecture", {}).get("network_class_name", ""))
