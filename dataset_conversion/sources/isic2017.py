"""The ISIC 2017 challenge: dermoscopic pictures, melanoma or not (part 3), lesion masks (part 1), its own split."""

from __future__ import annotations

from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import Content, ConversionSummary, write_dataset
from dataset_conversion.raw.splits import Split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.picture import COLOURS
from dataset_conversion.sources.pictures import MAX_EDGE, check_labelled, picture_case, read_labels, smaller_note

PARTS = {"train": "Training", "val": "Validation", "test": "Test_v2"}  # in the names of files and folders
LABEL = "melanoma"


def convert_isic2017(
    source: Path,
    *,
    dataset_id: int,
    name: str,
    fullsup_id: int | None = None,
    seed: int = 0,
    max_edge: int = MAX_EDGE,
) -> ConversionSummary:
    """Convert ISIC 2017 as the challenge ships it.

    Looked for in `source` or one folder below: `ISIC-2017_Training_Data/ISIC_0000000.jpg`,
    `ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png` and `ISIC-2017_Training_Part3_GroundTruth.csv`,
    and the same of `Validation` and `Test_v2`. The challenge's parts become training, validation and test cases.

    Args:
        source: the folder.
        fullsup_id: id of a second dataset with ground truth for training.
        seed: of the further folds.
        max_edge: larger pictures are made smaller; the largest have 6748 x 4499 pixels.

    Raises:
        UserError: a part is missing or has no label, and whatever `write_dataset` refuses.
    """
    target = prepare_target(dataset_id, name, fullsup_id)
    pictures: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    labels: dict[str, int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    tables: dict[str, Path] = {}
    for part, word in PARTS.items():
        folder = _found(source, f"ISIC-2017_{word}_Data")
        found = {file.stem: file for file in sorted(folder.glob("ISIC_*.jpg"))}
        if not found:
            raise UserError(f"{folder}: holds no ISIC_*.jpg; unpack ISIC-2017_{word}_Data.zip there")
        tables[part] = _found(source, f"ISIC-2017_{word}_Part3_GroundTruth.csv")
        labels |= {case: label for case, label in read_labels(tables[part], "image_id", LABEL).items() if case in found}
        truth = _found(source, f"ISIC-2017_{word}_Part1_GroundTruth")
        masks |= {case: file for case in found if (file := truth / f"{case}_segmentation.png").is_file()}
        pictures |= found
        parts[part] = tuple(found)
    split = Split(parts["train"], parts["val"], parts["test"], "the challenge's own")
    labelled = check_labelled(labels, split, pictures, tables["train"])
    cases = {case: picture_case(case, file, masks.get(case), max_edge) for case, file in pictures.items()}
    notes = smaller_note(pictures, max_edge)
    content = Content(COLOURS, "lesion", labelled)
    return write_dataset(target, cases, split, source="isic2017", notes=notes, seed=seed, content=content)


def _found(source: Path, name: str) -> Path:
    for place in (source / name, *sorted(source.glob(f"*/{name}"))):
        if place.exists():
            return place
    raise UserError(f"{source}: holds no {name}, nor does a folder in it; fetch and unpack it there")
