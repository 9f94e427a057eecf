"""Is what nnU-Net preprocessed made from the labels and scans that are there now?

Four things can be of different age: `labelsTr` and `imagesTr`; the digests that `finish` wrote into `dataset.json`; the
copy of `dataset.json` that planning makes; the labels that preprocessing puts into `gt_segmentations` and, resampled,
into the folder of a configuration. Each is compared with the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import blosc2
import numpy as np

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_object, sha256_of, sha256_of_all
from nnunetv2_clisc.training.fold_data import FoldData
from pseudo_labeling.run.workspace import Workspace, key_of

PREPROCESSED_AGAIN = 3  # cases at most; each takes seconds
TOLERANCE = 1e-3  # of normalised intensities, between two runs of the same preprocessing


def check_current(data: FoldData) -> None:
    """Refuse to train on pseudo-labels or scans that changed since they were finished or preprocessed.

    A dataset with masks of its own has no digests and is not looked at.

    Raises:
        UserError: says what changed and what to run.
    """
    if "clisc" not in data.dataset_json:
        return
    entry = data.dataset_json["clisc"]
    digests = entry.get("digests")  # None: labels that an earlier version finished
    raw = _raw(data)
    if raw is None:  # one round can be trained from preprocessed data alone
        if digests is not None and key_of(_hashes(_copies(data, _preprocessed(data)))) != digests["labels"]:
            raise _not_preprocessed(data, "labels in gt_segmentations are not those that dataset.json tells of")
        return
    cases = raw.cases()
    labels = _hashes((case, raw.label(case)) for case in cases)
    made = read_object(raw.dataset_json)["clisc"]
    if made.get("digests") is not None:
        _check_raw(data, raw, made["digests"], labels, cases)
    if made.get("digests") != digests:
        raise _not_preprocessed(data, "labels or scans were made anew since they were preprocessed")
    if digests is None:
        data.log(
            "CLISC: an earlier version finished these labels and recorded no digests, so scans replaced since then go "
            "unnoticed; pseudo_label --stage finish records them"
        )
    copies = _hashes(_copies(data, cases))
    if changed := [case for case in cases if copies[case] != labels[case]]:
        hint = ""
        if any(copy.exists() and not _newer(raw.label(case), copy) for case, copy in _copies(data, changed)):
            hint = f"remove {data.folder / 'gt_segmentations'}, where nnU-Net keeps newer files, and "
        raise _not_preprocessed(data, f"labels of {_named(changed)} are not those that were preprocessed", hint)
    if changed := _outdated(data, raw, cases):
        raise _not_preprocessed(data, f"{_named(changed)}: preprocessed before labels or scans were made anew")
    if made.get("settings", {}).get("s3f") != entry.get("settings", {}).get("s3f"):
        data.log(
            f"CLISC: WARNING, the settings of S3F in {raw.dataset_json} are others than those preprocessed, which are "
            f"used; {data.preprocess_command} takes them over"
        )


def _check_raw(
    data: FoldData, raw: Workspace, made: dict[str, str], labels: dict[str, str], cases: Sequence[str]
) -> None:
    """Raw labels and scans against what `finish` recorded."""
    again = f"with the same settings, which names what changed, then {data.preprocess_command}"
    scans = {case: raw.shown(case) for case in cases}
    there = {case: all(map(Path.is_file, files)) for case, files in scans.items()}
    if key_of({case: sha256_of_all(files) if there[case] else "" for case, files in scans.items()}) != made["scans"]:
        raise UserError(
            f"{raw.images_dir}: scans were added, removed or replaced since they were labelled; run "
            f"nnUNetv2_clisc pseudo_label -d {data.number} {again}"
        )
    if key_of(labels) != made["labels"]:
        raise UserError(
            f"{raw.labels_dir}: labels changed since they were finished, e.g. by hand; run "
            f"nnUNetv2_clisc pseudo_label -d {data.number} --stage finish {again}"
        )


def _outdated(data: FoldData, raw: Workspace, cases: Sequence[str]) -> list[str]:
    """Cases that nnU-Net would preprocess otherwise now, e.g. since only another configuration was preprocessed again.

    Files that are older than scan or label raise the suspicion; copying a dataset does that too, so some of these
    cases are preprocessed again, in memory, and compared.
    """
    folder, configuration = data.cases_folder, data.configuration
    suspects = [
        case
        for case in cases
        if (seg := folder / f"{case}_seg.b2nd").is_file()
        and any(_newer(file, seg) for file in (raw.label(case), *raw.shown(case)))
    ]
    found = []
    for case in suspects[:: max(1, -(-len(suspects) // PREPROCESSED_AGAIN))]:
        images = [str(path) for path in sorted(raw.images_dir.glob(f"{case}_????{data.ending}"))]
        scan, seg, _ = configuration.preprocessor_class(verbose=False).run_case(
            images, str(raw.label(case)), data.plans, configuration, data.dataset_json
        )
        old_scan, old_seg = (blosc2.open(str(folder / f"{case}{end}.b2nd"))[:] for end in ("", "_seg"))
        same = np.array_equal(seg, old_seg) and scan.shape == old_scan.shape
        if not (same and np.allclose(scan, old_scan, atol=TOLERANCE)):
            found.append(case)
    return found


def _raw(data: FoldData) -> Workspace | None:
    """The raw dataset where it is at hand and has pseudo-labels."""
    if data.raw is None:
        return None
    raw = Workspace(data.raw)
    return raw if raw.dataset_json.is_file() and raw.complete else None


def _preprocessed(data: FoldData) -> list[str]:
    return sorted(path.stem for path in data.cases_folder.glob("*.pkl"))


def _copies(data: FoldData, cases: Iterable[str]) -> list[tuple[str, Path]]:
    """Each case with nnU-Net's copy of the label it preprocessed."""
    return [(case, data.folder / "gt_segmentations" / f"{case}{data.ending}") for case in cases]


def _hashes(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """SHA-256 by case, nothing for a file that is not there."""
    return {case: sha256_of(path) if path.is_file() else "" for case, path in files}


def _newer(first: Path, second: Path) -> bool:
    """Whether the first file is there and was changed after the second."""
    return first.is_file() and first.stat().st_mtime_ns > second.stat().st_mtime_ns


def _named(cases: Sequence[str]) -> str:
    return ", ".join(cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")


def _not_preprocessed(data: FoldData, what: str, hint: str = "") -> UserError:
    return UserError(f"{data.name}: {what}; {hint}run {data.preprocess_command}")
