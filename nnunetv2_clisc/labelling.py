"""From what a user typed to a run of the pseudo-labelling pipeline: dataset, weights, preset, settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_clisc.errors import ClisError
from pseudo_labeling import weights as weight_files
from pseudo_labeling.pipeline import PseudoLabeling, Summary, WeightSpecs
from pseudo_labeling.settings import PRESETS, Settings

logger = logging.getLogger(__name__)


def raw_dataset(dataset_id: int) -> Path:
    """The folder of a dataset in `nnUNet_raw`.

    Raises:
        ClisError: the variable is unset, or no or several folders have that id.
    """
    root = os.environ.get("nnUNet_raw")
    if not root:
        raise ClisError("nnUNet_raw: the environment variable is not set; point it at your folder of raw datasets")
    found = sorted(p for p in Path(root).glob(f"Dataset{dataset_id:03d}_*") if p.is_dir())
    if len(found) != 1:
        what = "no dataset" if not found else f"{len(found)} datasets"
        raise ClisError(
            f"-d {dataset_id}: {root} has {what} Dataset{dataset_id:03d}_*; run `nnUNetv2_clisc convert` first"
        )
    return found[0]


def resolve_weights(weights: str | None, clip: str | None, sam: str | None, classifier: str | None) -> WeightSpecs:
    """Fill in what was not said: the published weights where their files are present, else the embedded ones."""
    if weights is None:
        weights = "paper" if weight_files.paper_available() else "embedded"
        if weights == "embedded" and (clip is None or sam is None):
            logger.info(
                "--weights: the published weights are not in %s, so the embedded ones are used (small, trained on "
                "phantoms); `nnUNetv2_clisc weights download` fetches the published ones",
                weight_files.cache_dir(),
            )
    others = (
        weights if weights in ("embedded", "paper") else ("paper" if weight_files.paper_available() else "embedded")
    )
    specs = (clip or others, sam or weights, classifier or ("paper" if others == "paper" else "none"))
    # the trainer reads the SAM's file again later, from wherever it is started
    return WeightSpecs(*(str(Path(spec).resolve()) if Path(spec).is_file() else spec for spec in specs))


def resolve_settings(preset: str, settings_file: Path | None, changes: Sequence[str], seed: int) -> Settings:
    """A preset, then the file's entries, then `--set NAME=VALUE`, each over the one before.

    Raises:
        ClisError: a change that is not NAME=VALUE, or a file that is not JSON.
        PseudoLabelError: an unknown setting.
    """
    settings = Settings().merged(PRESETS[preset]).merged({"seed": seed})
    if settings_file is not None:
        try:
            values = json.loads(settings_file.read_text())
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ClisError(f"--settings {settings_file}: cannot be read as JSON ({error}); mend the file") from error
        settings = settings.merged(values)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ClisError(f"--set {change}: write NAME=VALUE, e.g. prompts.margin=10")
        try:
            value: Any = json.loads(text)
        except json.JSONDecodeError:
            value = text
        for part in reversed(name.split(".")):
            value = {part: value}
        settings = settings.merged(value)
    return settings


def pseudo_label(
    dataset_id: int,
    *,
    device: str | None = None,
    weights: str | None = None,
    clip_weights: str | None = None,
    sam_weights: str | None = None,
    classifier_weights: str | None = None,
    image_labels: Path | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    changes: Sequence[str] = (),
    seed: int = 0,
) -> Summary:
    """Write pseudo-labels for every case in `imagesTr` of a dataset.

    Raises:
        ClisError, PseudoLabelError: whatever the user can mend, in one line.
    """
    dataset = raw_dataset(dataset_id)
    specs = resolve_weights(weights, clip_weights, sam_weights, classifier_weights)
    settings = resolve_settings(
        preset or ("embedded" if specs.clip == "embedded" else "paper"), settings_file, changes, seed
    )
    return PseudoLabeling(dataset, settings, specs, device=usable_device(device), image_labels=image_labels).run()


def usable_device(device: str | None) -> str:
    """The device asked for, or CUDA where there is one.

    Raises:
        ClisError: CUDA asked for and not there.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ClisError(f"-device {device}: torch sees no CUDA device; use -device cpu")
    return device
