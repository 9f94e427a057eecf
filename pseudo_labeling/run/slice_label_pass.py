"""CLIP's slice probabilities of every case on disk, and from all of them the labels that train the classifier."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_conversion.errors import UserError
from dataset_conversion.files import write_table
from pseudo_labeling.run.inputs import TABLE, RunInputs
from pseudo_labeling.run.workspace import key_of
from pseudo_labeling.slice_labels import (
    SliceLabels,
    encode_prompts,
    head_fraction,
    labels_from_probability,
    read_image_labels,
    tumour_probability,
)
from pseudo_labeling.weights.files import identify

logger = logging.getLogger(__name__)

STAGE, GIVEN = "slice_labels", "image_labels"  # CLIP's records, and those of cases that CLIP was not asked about


class SliceLabelPass:
    """Slice labels of the cases of a run (paper 2.1.1): probabilities case by case, labels from them at once.

    Args:
        run: what all stages share.
    """

    def __init__(self, run: RunInputs) -> None:
        self.run = run
        self._text: torch.Tensor | None = None

    def record(self, case: str) -> dict[str, Any] | None:
        """The record of a finished case, None when it must be (re)done.

        With a table of the user's, what CLIP has said stays where it is, and serves for the slices' order too.
        """
        record = self.run.files.record(STAGE, case, self._key(case, by_clip=True))
        stage = STAGE
        if record is None and self.run.image_labels is not None:
            stage, record = GIVEN, self.run.files.record(GIVEN, case, self._key(case, by_clip=False))
        return self._checked(stage, case, record) if record is not None and "ignored" not in record else record

    @cached_property
    def given(self) -> Path | None:
        """The slice labels of a person: `--image-labels`, or our own table once it was corrected by hand.

        Raises:
            UserError: both, and not the same file.
        """
        table, asked = self.run.files.root / TABLE, self.run.image_labels
        if self.run.files.changed_by_hand("", TABLE) is None:
            return asked
        if asked is None:
            logger.warning("%s: changed by hand, so it is kept and used; --redo %s makes it anew", table, TABLE)
        elif asked.resolve() != table.resolve():
            raise UserError(
                f"--image-labels {asked}: {table} was changed by hand too; leave the flag out to use that, or add "
                f"--redo {TABLE} to replace it"
            )
        return table

    def prepare(self) -> None:
        """Load what :meth:`make` needs, so that a broken weight file is no failure of a case."""
        if self.run.image_labels is None:
            self._text = encode_prompts(self.run.clip, self.run.settings.slice_labels, self.run.device)

    def make(self, case: str) -> Callable[[], object]:
        """Ask CLIP about every slice of a case.

        Returns:
            What writes the record; it may run while the next case is made.
        """
        run = self.run
        scan, slices = run.read(case)
        found: dict[str, Any] = {}
        if self._text is not None:
            found = {"probability": tumour_probability(slices, run.clip, self._text, run.device).tolist()}
        return partial(
            run.files.finish,
            STAGE if found else GIVEN,
            case,
            self._key(case, by_clip=bool(found)),
            file_slices=[scan.file_slice(z) for z in range(len(slices))],
            **found,
            head=head_fraction(slices).tolist(),
            slice_mm=scan.slice_mm,
            ignored=list(scan.ignored),
        )

    def labels(self) -> dict[str, SliceLabels]:
        """The labels of all cases, from their records; also written as `slice_labels.csv` by :meth:`write_table`.

        Raises:
            UserError: cases without a record, a mistake in the user's table, or only one class in all slices.
        """
        records = {case: self.record(case) for case in self.run.cases}
        found = self.run.all_finished("slice labels", self.run.files.root / STAGE, STAGE, records)
        self._file_slices = {case: record["file_slices"] for case, record in found.items()}
        if self.given is not None:
            labels = self._labels_of_user(self.given, found)
        else:
            settings = self.run.settings.slice_labels
            labels = {
                case: labels_from_probability(np.array(r["probability"]), np.array(r["head"]), settings, r["slice_mm"])
                for case, r in found.items()
            }
        self._check_both_classes(labels)
        return labels

    def write_table(self, labels: dict[str, SliceLabels]) -> None:
        """Write `slice_labels.csv`, in the files' slice order, unless it is itself where the labels come from."""
        files = self.run.files
        path = files.path("", TABLE)
        if self.given is not None and self.given.resolve() == path.resolve():
            return
        rows = []
        for case, found in labels.items():
            for z in np.argsort(self._file_slices[case]):
                rows.append(
                    {
                        "case": case,
                        "slice": self._file_slices[case][z],
                        "label": int(found.label[z]),
                        "probability": f"{found.probability[z]:.4f}",
                        "confident": int(found.confident[z]),
                    }
                )
        columns = ["case", "slice", "label", "probability", "confident"]
        write_table(path, columns, rows, partial(files.announce, "", TABLE))
        files.finish("", TABLE, "", [path])

    def _checked(self, stage: str, case: str, record: dict[str, Any]) -> dict[str, Any] | None:
        """A record from before the window left anything out: it holds where there is nothing to leave out."""
        try:
            scan, _ = self.run.read(case)
        except UserError:
            return None  # doing it again says why
        if scan.ignored:
            return None
        content = {name: value for name, value in record.items() if name not in ("key", "files")}
        return self.run.files.finish(stage, case, record["key"], ignored=[], **content)

    def _key(self, case: str, *, by_clip: bool) -> str:
        settings = self.run.settings.slice_labels
        # the user's table is read when all cases are there; what is on disk for a case does not depend on it
        source: Any = GIVEN
        if by_clip:
            clip = identify("clip", self.run.specs.clip).sha256
            source = [settings.normal_prompt, settings.tumour_prompt, clip]
        return key_of(self.run.images[case], source, self.run.settings.window, "slice_mm", *self.run.squares(case))

    def _labels_of_user(self, path: Path, records: dict[str, dict[str, Any]]) -> dict[str, SliceLabels]:
        try:
            given = read_image_labels(path, {case: len(r["head"]) for case, r in records.items()})
        except UserError as error:
            if path == self.run.image_labels:
                raise
            raise UserError(f"{error} (it was changed by hand; --redo {TABLE} makes it anew)") from error
        labels = {}
        for case, record in records.items():
            label = given[case][record["file_slices"]]
            labels[case] = SliceLabels(label.astype(np.float32), label, np.ones(len(label), dtype=bool))
        return labels

    def _check_both_classes(self, labels: dict[str, SliceLabels]) -> None:
        found = np.concatenate([each.label for each in labels.values()])
        if 0 < found.sum() < len(found):
            return
        which = "normal" if not found.any() else "tumour"
        settings = self.run.settings.slice_labels
        source = (
            f"the prompts were normal = '{settings.normal_prompt}', tumour = '{settings.tumour_prompt}'; "
            "try others with --set slice_labels.tumour_prompt=..., or give --image-labels"
            if self.given is None
            else f"{self.given}: label some slices of the other class"
        )
        raise UserError(
            f"{self.run.files.images_dir}: every slice is labelled {which}, nothing to learn from; {source}"
        )
