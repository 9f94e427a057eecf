"""Is what nnU-Net preprocessed made from the labels and scans that are there now?

Four things can be of different age: `labelsTr` and `imagesTr`; the digests that `finish` wrote into `dataset.json`; the
copy of `dataset.json` that planning makes; the labels that preprocessing puts into `gt_segmentations` and, resampled,
into the folder of a configuration. Each is compared with the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import blosc2
import numpy as np
from nnunetv2.paths import nnUNet_raw

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_object, sha256_of
from pseudo_labeling.run.workspace import Workspace, key_of

if TYPE_CHECKING:
    from nnunetv2_clisc.training.rounds import SelfTraining

PREPROCESSED_AGAIN = 3  # cases at most; each takes seconds
TOLERANCE = 1e-3  # of normalised intensities, between two runs of the same preprocessing


def check_current(trainer: SelfTraining) -> None:
    """Refuse to train on pseudo-labels or scans that changed since they were finished or preprocessed.

    A dataset with masks of its own has no digests and is not looked at.

    Raises:
        UserError: says what changed and what to run.
    """
    if "clisc" not in trainer.dataset_json:
        return
    entry = trainer.dataset_json["clisc"]
    digests = entry.get("digests")  # None: labels that an earlier version finished
    raw = _raw(trainer)
    if raw is None:  # one round can be trained from preprocessed data alone
        if digests is not None and key_of(_hashes(_copies(trainer, _preprocessed_cases(trainer)))) != digests["labels"]:
            raise _not_preprocessed(trainer, "labels in gt_segmentations are not those that dataset.json tells of")
        return
    cases = raw.cases()
    labels = _hashes((case, raw.label(case)) for case in cases)
    made = read_object(raw.dataset_json)["clisc"]
    if made.get("digests") is not None:
        _check_raw(trainer, raw, made["digests"], labels, cases)
    if made.get("digests") != digests:
        raise _not_preprocessed(trainer, "labels or scans were made anew since they were preprocessed")
    if digests is None:
        trainer.print_to_log_file(
            "CLISC: an earlier version finished these labels and recorded no digests, so scans replaced since then go "
            "unnoticed; pseudo_label --stage finish records them"
        )
    copies = _hashes(_copies(trainer, cases))
    if changed := [case for case in cases if copies[case] != labels[case]]:
        hint = ""
        if any(copy.exists() and not _newer(raw.label(case), copy) for case, copy in _copies(trainer, changed)):
            hint = f"remove {_folder(trainer) / 'gt_segmentations'}, where nnU-Net keeps newer files, and "
        raise _not_preprocessed(trainer, f"labels of {_named(changed)} are not those that were preprocessed", hint)
    if changed := _outdated(trainer, raw, cases):
        raise _not_preprocessed(trainer, f"{_named(changed)}: preprocessed before labels or scans were made anew")
    if made.get("settings", {}).get("s3f") != entry.get("settings", {}).get("s3f"):
        trainer.print_to_log_file(
            f"CLISC: WARNING, the settings of S3F in {raw.dataset_json} are others than those preprocessed, which are "
            f"used; {preprocess_command(trainer)} takes them over"
        )


def preprocess_command(trainer: SelfTraining) -> str:
    """What a user types to preprocess the dataset for this trainer; planning copies `dataset.json`."""
    number, plans = int(trainer.plans_manager.dataset_name[7:10]), trainer.plans_manager.plans_name
    command = f"nnUNetv2_plan_and_preprocess -d {number} -c {trainer.configuration_name}"
    return command if plans == "nnUNetPlans" else f"{command} (with the flags that made {plans})"


def _check_raw(
    trainer: SelfTraining, raw: Workspace, made: dict[str, str], labels: dict[str, str], cases: Sequence[str]
) -> None:
    """Raw labels and scans against what `finish` recorded."""
    number = int(trainer.plans_manager.dataset_name[7:10])
    again = f"with the same settings, which names what changed, then {preprocess_command(trainer)}"
    if key_of(_hashes((case, raw.image(case)) for case in cases)) != made["scans"]:
        raise UserError(
            f"{raw.images_dir}: scans were added, removed or replaced since they were labelled; run "
            f"nnUNetv2_clisc pseudo_label -d {number} {again}"
        )
    if key_of(labels) != made["labels"]:
        raise UserError(
            f"{raw.labels_dir}: labels changed since they were finished, e.g. by hand; run "
            f"nnUNetv2_clisc pseudo_label -d {number} --stage finish {again}"
        )


def _outdated(trainer: SelfTraining, raw: Workspace, cases: Sequence[str]) -> list[str]:
    """Cases that nnU-Net would preprocess otherwise now, e.g. since only another configuration was preprocessed again.

    Files that are older than scan or label raise the suspicion; copying a dataset does that too, so some of these
    cases are preprocessed again, in memory, and compared.
    """
    folder, configuration = Path(trainer.preprocessed_dataset_folder), trainer.configuration_manager
    suspects = [
        case
        for case in cases
        if (seg := folder / f"{case}_seg.b2nd").is_file()
        and (_newer(raw.label(case), seg) or _newer(raw.image(case), seg))
    ]
    found = []
    for case in suspects[:: max(1, -(-len(suspects) // PREPROCESSED_AGAIN))]:
        images = [
            str(path) for path in sorted(raw.images_dir.glob(f"{case}_????{trainer.dataset_json['file_ending']}"))
        ]
        data, seg, _ = configuration.preprocessor_class(verbose=False).run_case(
            images, str(raw.label(case)), trainer.plans_manager, configuration, trainer.dataset_json
        )
        old_data, old_seg = (blosc2.open(str(folder / f"{case}{end}.b2nd"))[:] for end in ("", "_seg"))
        same = np.array_equal(seg, old_seg) and data.shape == old_data.shape
        if not (same and np.allclose(data, old_data, atol=TOLERANCE)):
            found.append(case)
    return found


def _raw(trainer: SelfTraining) -> Workspace | None:
    """The raw dataset where it is at hand and has pseudo-labels."""
    if not nnUNet_raw.is_set():
        return None
    raw = Workspace(Path(nnUNet_raw, trainer.plans_manager.dataset_name))
    return raw if raw.dataset_json.is_file() and raw.complete else None


def _folder(trainer: SelfTraining) -> Path:
    return Path(trainer.preprocessed_dataset_folder_base)


def _preprocessed_cases(trainer: SelfTraining) -> list[str]:
    return sorted(path.stem for path in Path(trainer.preprocessed_dataset_folder).glob("*.pkl"))


def _copies(trainer: SelfTraining, cases: Iterable[str]) -> list[tuple[str, Path]]:
    """Each case with nnU-Net's copy of the label it preprocessed."""
    ending = trainer.dataset_json["file_ending"]
    return [(case, _folder(trainer) / "gt_segmentations" / f"{case}{ending}") for case in cases]


def _hashes(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """SHA-256 by case, nothing for a file that is not there."""
    return {case: sha256_of(path) if path.is_file() else "" for case, path in files}


def _newer(first: Path, second: Path) -> bool:
    """Whether the first file is there and was changed after the second."""
    return first.is_file() and first.stat().st_mtime_ns > second.stat().st_mtime_ns


def _named(cases: Sequence[str]) -> str:
    return ", ".join(cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")


def _not_preprocessed(trainer: SelfTraining, what: str, hint: str = "") -> UserError:
    return UserError(f"{trainer.plans_manager.dataset_name}: {what}; {hint}run {preprocess_command(trainer)}")
