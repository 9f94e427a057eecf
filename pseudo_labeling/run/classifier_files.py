"""Files around the two slice classifiers, before and after AMDA: weights, states of interrupted trainings, CAMs."""

from __future__ import annotations

import io
import logging
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dataset_conversion.errors import UserError
from dataset_conversion.files import write_bytes
from pseudo_labeling.classifier import SliceClassifier, TrainingState

logger = logging.getLogger(__name__)

SAVED_EVERY = 30.0  # seconds between two states: an epoch of a small network takes little longer than saving one

Which = Literal["raw", "amda"]
RAW: Which = "raw"
AMDA: Which = "amda"


def final_pass(alpha: float) -> Which:
    """The classifier whose CAM prompts SAM: after AMDA, unless that is switched off (`alpha` = 0)."""
    return AMDA if alpha > 0 else RAW


def load_classifier(model: SliceClassifier, path: Path, device: torch.device) -> SliceClassifier:
    """Stored weights in a model on the device, in the memory format of training: it gives the same CAM, to the bit.

    Raises:
        UserError: they are of another network.
    """
    try:
        model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except RuntimeError as error:
        raise UserError(f"{path}: not a classifier of this dataset's settings; run pseudo_label again") from error
    return model.to(device).to(memory_format=torch.channels_last).eval()


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write what `np.savez_compressed` writes, twice as fast and 1 % larger: half of a CAM's bits are noise."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)
    write_bytes(path, buffer.getvalue())


def write_torch(path: Path, content: Any) -> None:
    """Write tensors and plain values with `torch.save`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def saved_now_and_then(path: Path, key: str) -> Callable[[TrainingState], None]:
    """A function that saves a training's state after its first epoch, and from then on at most every `SAVED_EVERY` s.

    Args:
        path: of the file, replaced each time.
        key: of everything the training depends on, for :func:`load_state`.
    """
    last = -float("inf")

    def save(state: TrainingState) -> None:
        nonlocal last
        if time.monotonic() - last >= SAVED_EVERY:
            write_torch(path, {"key": key, "state": {f.name: getattr(state, f.name) for f in fields(state)}})
            last = time.monotonic()

    return save


def load_state(path: Path, key: str) -> TrainingState | None:
    """The state of an interrupted training of the very same task, if there is one."""
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        return TrainingState(**saved["state"]) if saved["key"] == key else None
    except Exception as error:  # a damaged file fails in as many ways as there are parsers
        logger.warning("%s: cannot be read (%s), so this training begins anew", path, type(error).__name__)
        return None
