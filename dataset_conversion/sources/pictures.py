"""A folder of pictures with a table of labels, for methods that learn from picture labels; each is one slice."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output, read_table
from dataset_conversion.raw.dataset import (
    CaseSource,
    Content,
    ConversionSummary,
    check_masks_given,
    unused_masks,
    write_channels,
    write_dataset,
)
from dataset_conversion.raw.splits import Split, choose_split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.picture import COLOURS, EXTENSIONS, picture_size, read_picture, read_picture_mask
from dataset_conversion.scans.volumes import list_volumes, read_image
from dataset_conversion.threads import in_threads

MAX_EDGE = 1024  # pixels of the longer side; what SAM sees


def convert_pictures(
    images: Path,
    table: Path,
    *,
    dataset_id: int,
    name: str,
    labels: Path | None = None,
    split: Path | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
    max_edge: int = MAX_EDGE,
    class_name: str = "lesion",
) -> ConversionSummary:
    """Convert a folder of PNG, JPEG, TIFF or BMP pictures.

    Args:
        images: the pictures; a case is named by its file without extension.
        table: CSV with the columns `case,label`, label 0 or 1; test cases need none.
        labels: folder of masks with the same case names, above 0 = lesion; opened as :func:`convert_folder` does.
        split: JSON file; without one a fifth is drawn for validation.
        fullsup_id: id of a second dataset with ground truth for training.
        seed: of what is drawn.
        max_edge: larger pictures are made smaller, and their masks with them.
        class_name: of what is marked, in `dataset.json`.

    Raises:
        UserError: a picture without a label, a label without a picture, a mask of another size, and whatever
            `prepare_target`, `choose_split`, `read_picture` and `write_dataset` refuse.
    """
    target = prepare_target(dataset_id, name, fullsup_id)
    check_masks_given(labels, fullsup_id)
    pictures = list_pictures(images)
    masks = {} if labels is None else list_pictures(labels)
    if labels is not None and not masks.keys() & pictures.keys():
        raise UserError(f"--labels {labels}: no mask is named like a picture in {images}; rename them to match")
    cases = {case: picture_case(case, file, masks.get(case), max_edge) for case, file in pictures.items()}
    chosen = choose_split(split, cases, seed=seed)
    labelled = check_labelled(read_labels(table, "case", "label"), chosen, pictures, table)
    notes = (*unused_masks(labels, fullsup_id, chosen), *smaller_note(pictures, max_edge))
    content = Content(COLOURS, class_name, labelled)
    return write_dataset(target, cases, chosen, source="pictures", notes=notes, seed=seed, content=content)


def convert_new_pictures(images: Path, output: Path, *, max_edge: int = MAX_EDGE) -> list[Path]:
    """Write pictures as `nnUNetv2_predict` takes them: `CASE_0000.nii.gz` to `CASE_0002.nii.gz`.

    Args:
        images: the pictures.
        output: folder to write to.
        max_edge: as for the training pictures.

    Raises:
        UserError: see `read_picture`.
    """
    pictures = list_pictures(images)
    check_output(output, {"--images": images})
    jobs = {case: (file, output, case, max_edge) for case, file in pictures.items()}
    return [path for written in in_threads(_write_new, jobs, "converting").values() for path in written]


def masks_to_png(masks: Path, pictures: Path, output: Path) -> list[Path]:
    """Write predicted masks back as PNG files with 0 and 255, each of the size of its picture.

    Args:
        masks: folder of `CASE.nii.gz`.
        pictures: the folder that was converted.
        output: folder that gets `CASE.png`.

    Raises:
        UserError: a mask without a picture, or of other proportions.
    """
    from PIL import Image

    from dataset_conversion.files import whole

    files, originals = list_volumes(masks, strip_channel=False), list_pictures(pictures)
    check_output(output, {"--masks": masks, "--images": pictures})
    written = []
    for case, file in files.items():
        if case not in originals:
            raise UserError(f"{file}: {pictures} has no picture {case}; give the folder that was converted")
        values = sitk.GetArrayFromImage(read_image(file))
        size = picture_size(originals[case])
        height, width = values.shape[1:]
        if values.shape[0] != 1 or abs(width * size[1] - height * size[0]) > 2 * max(size):
            raise UserError(f"{file}: {width} x {height} pixels do not fit {originals[case]} of {size[0]} x {size[1]}")
        image = Image.fromarray((values[0] > 0).astype("uint8") * 255).resize(size, Image.Resampling.NEAREST)
        with whole(output / f"{case}.png") as temporary:
            image.save(temporary, format="PNG")
        written.append(output / f"{case}.png")
    return written


def list_pictures(folder: Path) -> dict[str, Path]:
    """Pictures directly in a folder, by case name; errors as of `list_volumes`."""
    return list_volumes(folder, strip_channel=False, extensions=EXTENSIONS)


def picture_case(name: str, picture: Path, mask: Path | None, max_edge: int) -> CaseSource:
    """How one picture and its mask are read."""
    return CaseSource(
        name,
        picture,
        mask,
        partial(read_picture, max_edge=max_edge),
        partial(read_picture_mask, picture=picture, max_edge=max_edge),
    )


def read_labels(table: Path, case_column: str, label_column: str) -> dict[str, int]:
    """A picture's label, 0 or 1, by case; names may carry the file's extension.

    Raises:
        UserError: no such columns, a picture twice, or a label that is neither 0 nor 1.
    """
    rows = read_table(table, f"give a text file {case_column},{label_column}")
    if not rows or not {case_column, label_column} <= set(rows[0]):
        raise UserError(f"{table}: needs a header '{case_column},{label_column}' and one row a picture")
    found: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        case = row[case_column] or ""
        case = next((case[: -len(end)] for end in EXTENSIONS if case.lower().endswith(end)), case)
        if case in found:
            raise UserError(f"{table}, line {number}: {case} has a label already; remove one of the rows")
        try:
            value = float(row[label_column])
        except (TypeError, ValueError):
            value = -1.0
        if value not in (0.0, 1.0):
            raise UserError(f"{table}, line {number}: label must be 0 or 1, not {row[label_column]!r}")
        found[case] = int(value)
    return found


def check_labelled(
    labels: Mapping[str, int], split: Split, pictures: Mapping[str, Path], table: Path
) -> dict[str, int]:
    """The labels of the training and validation cases.

    Raises:
        UserError: one of them has none, a label belongs to no picture, or all have the same.
    """
    if unknown := sorted(labels.keys() - pictures.keys()):
        folder = next(iter(pictures.values())).parent
        raise UserError(f"{table}: {folder} has no picture {unknown[0]!r}; correct the name or remove the row")
    if missing := [case for case in split.trainval if case not in labels]:
        raise UserError(f"{table}: no label of {pictures[missing[0]]} ({len(missing)} missing); add a row for it")
    return {case: labels[case] for case in split.trainval}


def smaller_note(pictures: Mapping[str, Path], max_edge: int) -> tuple[str, ...]:
    """The remark on pictures that are made smaller."""
    large = [case for case, file in pictures.items() if max(picture_size(file)) > max_edge]
    if not large:
        return ()
    return (f"{len(large)} pictures were made smaller, to {max_edge} pixels on their longer side (--max-edge)",)


def _write_new(picture: Path, output: Path, case: str, max_edge: int) -> list[Path]:
    return write_channels(read_picture(picture, max_edge), output, case)
