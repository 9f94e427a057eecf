"""Which case is for training, validation or test: from a file, or drawn by a seed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import check_case_name

PARTS = ("train", "val", "test")
FOLDS = 5  # of nnU-Net's cross-validation
VAL_FRACTION = 0.2  # nnU-Net's own 80:20, where the user names no validation cases
_PATIENT = re.compile(r"(BraTS-[A-Za-z]+-\d{5})-\d{3}$|(sub-[A-Za-z0-9]+)(?=_)")


@dataclass(frozen=True)
class Split:
    """Case names of the three parts, and in words where they come from."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    origin: str

    @property
    def trainval(self) -> tuple[str, ...]:
        """The cases that go to `imagesTr`."""
        return self.train + self.val


def patient_of(case: str) -> str:
    """Whose scan a case is: BraTS counts time points after the patient, BIDS sessions; else each is its own."""
    found = _PATIENT.match(case)
    return case if found is None else found[1] or found[2]


def draw_split(names: Iterable[str], *, seed: int, val: float = VAL_FRACTION, test: float = 0.0) -> Split:
    """Divide cases at random, the same way for the same names and seed; a patient's cases stay together.

    Args:
        val: fraction of the patients for validation, at least one.
        test: fraction of the patients for testing.

    Raises:
        UserError: fewer than two patients left for training and validation.
    """
    ordered = sorted(names)
    patients = _by_patient(ordered)
    shuffled = _shuffled(patients, seed)
    n_test = round(test * len(shuffled))
    n_val = max(1, round(val * len(shuffled)))
    if len(shuffled) - n_test - n_val < 1:
        raise UserError(
            f"{len(shuffled)} case(s) are too few: training and validation need one each; add scans of other patients "
            "or give --split FILE"
        )
    parts = shuffled[n_test + n_val :], shuffled[n_test : n_test + n_val], shuffled[:n_test]
    percent = [round(100 * share) for share in (1 - val - test, val, test)]
    ratio = ":".join(map(str, percent if test else percent[:2]))
    train_names, val_names, test_names = (
        tuple(sorted(case for patient in part for case in patients[patient])) for part in parts
    )
    of_patients = " of the patients" if len(patients) < len(ordered) else ""
    return Split(train_names, val_names, test_names, f"drawn {ratio}{of_patients} with seed {seed}")


def choose_split(
    path: Path | None, names: Collection[str], *, seed: int, val: float = VAL_FRACTION, test: float = 0.0
) -> Split:
    """The split in a file, or without one as :func:`draw_split` draws it; errors are those of either."""
    return draw_split(names, seed=seed, val=val, test=test) if path is None else read_split(path, names, seed=seed)


def cross_validation(split: Split, *, seed: int = 0) -> list[dict[str, list[str]]]:
    """The folds of `splits_final.json`: first the data set's own, then up to four more over its training cases.

    nnU-Net joins the validation cases of all folds, and refuses a case that comes twice. So the training patients of
    fold 0 are dealt out to the validation sets of the others, which train on everything else.

    Args:
        seed: of the deal.

    Returns:
        `{"train": [...], "val": [...]}` of each fold; fewer than five where there are fewer than four patients to deal.
    """
    patients = _by_patient(split.train)
    shuffled = _shuffled(patients, seed)
    folds = [{"train": list(split.train), "val": list(split.val)}]
    for first in range(min(FOLDS - 1, len(shuffled))):
        held_out = set(shuffled[first :: FOLDS - 1])
        val = sorted(case for patient in held_out for case in patients[patient])
        train = sorted(case for case in split.trainval if patient_of(case) not in held_out)
        if train:
            folds.append({"train": train, "val": val})
    return folds


def shared_patients(split: Split) -> list[str]:
    """Patients with cases in more than one part of a split."""
    parts = [{patient_of(case) for case in cases} for cases in (split.train, split.val, split.test)]
    return sorted((parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2]))


def _by_patient(cases: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in cases:
        found.setdefault(patient_of(case), []).append(case)
    return found


def _shuffled(patients: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(patients)
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]


def read_split(path: Path, known: Collection[str], *, seed: int = 0) -> Split:
    """Read `{"train": [...], "val": [...], "test": [...]}`; a missing list is empty.

    nnU-Net cannot train without validation cases, so when the file names none, a seeded fifth of `train` is set aside.

    Args:
        known: names of the cases there are scans of.

    Raises:
        UserError: not such a file, an unknown case, a case twice, or nothing to train on.
    """
    content = _load(path)
    seen: dict[str, str] = {}
    unknown: list[str] = []
    for part in PARTS:
        for name in content[part]:
            check_case_name(name, path)
            if name in seen:
                lists = f"twice in {part}" if seen[name] == part else f"in both {seen[name]} and {part}"
                raise UserError(f"{path}: case {name} is {lists}; name each case once")
            seen[name] = part
            if name not in known:
                unknown.append(name)
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"{path}: there is no scan of case {unknown[0]}{more}; list only cases that exist (--split FILE)"
        )
    if not content["train"]:
        raise UserError(f"{path}: no training case; fill the list 'train'")
    train, val, test = (tuple(content[part]) for part in PARTS)
    if val:
        return Split(train, val, test, f"given in {path.name}")
    drawn = draw_split(train, seed=seed)
    return Split(drawn.train, drawn.val, test, f"given in {path.name}, its train list {drawn.origin} for validation")


def _load(path: Path) -> dict[str, list[str]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a JSON file to --split") from error
    except ValueError as error:  # broken JSON or broken UTF-8
        raise UserError(f"{path}: not a JSON file; give lists of names: train, val, test") from error
    well_formed = isinstance(content, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in content.values()
    )
    if not well_formed or set(content) - set(PARTS):
        raise UserError(f'{path}: expected {{"train": [names], "val": [names], "test": [names]}} and nothing else')
    return {part: content.get(part, []) for part in PARTS}
