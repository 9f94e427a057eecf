"""Pictures with labels to raw datasets, ISIC 2017's layout, and masks back to PNG."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.errors import UserError
from dataset_conversion.sources.isic2017 import convert_isic2017
from dataset_conversion.sources.pictures import convert_new_pictures, convert_pictures, masks_to_png
from tests.helpers.picture_files import colours, save, table
from tests.helpers.volume_files import nothing_is_made, read

NAMES = [f"p{number}" for number in range(6)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six pictures, the last in JPEG, masks of all, labels of the first five, a split."""
    root = tmp_path / "source"
    for number, name in enumerate(NAMES):
        save(root / "images" / f"{name}{'.jpg' if number == 5 else '.png'}", colours(number))
        save(root / "masks" / f"{name}.png", (colours(number)[..., 0] > 128).astype(np.uint8) * 255)
    table(root / "labels.csv", {f"{name}.png": number % 2 for number, name in enumerate(NAMES[:5])})
    (root / "split.json").write_text(json.dumps({"train": NAMES[:3], "val": NAMES[3:5], "test": NAMES[5:]}))
    return root


def convert(source: Path, **changes: object) -> object:
    values = {
        "dataset_id": 1,
        "name": "Skin",
        "labels": source / "masks",
        "split": source / "split.json",
        **changes,
    }
    return convert_pictures(source / "images", source / "labels.csv", **values)  # type: ignore[arg-type]


def test_dataset_has_channels_labels_and_no_training_mask(nnunet: Path, source: Path) -> None:
    convert(source, fullsup_id=2)
    main, twin = nnunet / "raw/Dataset001_Skin", nnunet / "raw/Dataset002_Skin_fullsup"
    content = json.loads((main / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert content["labels"] == {"background": 0, "lesion": 1}
    for number, name in enumerate(NAMES[:5]):
        for channel in range(3):
            found = read(main / f"imagesTr/{name}_{channel:04d}.nii.gz")
            np.testing.assert_array_equal(found[0], colours(number)[..., channel])
        np.testing.assert_array_equal(read(twin / f"labelsTr/{name}.nii.gz")[0], colours(number)[..., 0] > 128)
    assert list((main / "labelsTr").iterdir()) == []
    assert read(main / "labelsTs/p5.nii.gz").shape == (1, 20, 30)
    assert not (main / "labelsTs/p0.nii.gz").exists()
    with (main / "image_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"case": name, "slice": "0", "label": str(i % 2)} for i, name in enumerate(NAMES[:5])]


def test_without_masks_of_training_cases_all_is_the_same(nnunet: Path, source: Path) -> None:
    convert(source)
    for name in NAMES[:5]:
        (source / "masks" / f"{name}.png").write_bytes(b"no mask")
    convert(source, dataset_id=3)
    first, second = (nnunet / f"raw/Dataset00{number}_Skin" for number in (1, 3))
    for folder in ("imagesTr", "imagesTs", "labelsTs"):
        for path in sorted((first / folder).iterdir()):
            assert path.read_bytes() == (second / folder / path.name).read_bytes()


def unlabelled(source: Path) -> None:
    table(source / "labels.csv", {name: 0 for name in NAMES[1:5]})


def unknown(source: Path) -> None:
    table(source / "labels.csv", {name: 0 for name in (*NAMES[:5], "p9")})


def not_a_label(source: Path) -> None:
    table(source / "labels.csv", {**dict.fromkeys(NAMES[:5], 0), "p1": 2})


def twice(source: Path) -> None:
    (source / "labels.csv").write_text("case,label\np0,0\np0.png,1\n")


def other_header(source: Path) -> None:
    table(source / "labels.csv", dict.fromkeys(NAMES, 0), ("picture", "label"))


def other_size(source: Path) -> None:
    save(source / "masks" / "p5.png", np.zeros((5, 5), np.uint8))


def one_pixel_high(source: Path) -> None:
    save(source / "images" / "p1.png", colours(shape=(1, 40)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unlabelled, r"labels\.csv: no label of .*p0\.png \(1 missing\)"),
        (unknown, r"labels\.csv: .*images has no picture 'p9'"),
        (not_a_label, r"labels\.csv, line 3: label must be 0 or 1, not '2'"),
        (twice, r"labels\.csv, line 3: p0 has a label already"),
        (other_header, r"labels\.csv: needs a header 'case,label'"),
        (other_size, r"p5\.png: \(5, 5\) pixels, but .*p5\.jpg has \(30, 20\)"),
        (one_pixel_high, r"p1\.png: only one pixel"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(nnunet: Path, source: Path, change: object, words: str) -> None:
    change(source)  # type: ignore[operator]
    with nothing_is_made(nnunet, words):
        convert(source)


def test_new_pictures_and_masks_back_at_their_own_size(nnunet: Path, source: Path, tmp_path: Path) -> None:
    written = convert_new_pictures(source / "images", tmp_path / "new", max_edge=15)
    assert len(written) == 18
    assert read(tmp_path / "new/p0_0001.nii.gz").shape == (1, 10, 15)
    convert(source, max_edge=15)
    predictions = nnunet / "raw/Dataset001_Skin/labelsTs"
    (made,) = masks_to_png(predictions, source / "images", tmp_path / "png")
    mask = Image.open(made)
    assert mask.size == (30, 20)
    assert set(np.unique(np.asarray(mask))) == {0, 255}
    np.testing.assert_array_equal(np.asarray(mask)[::2, ::2] > 0, read(predictions / "p5.nii.gz")[0] > 0)
    (source / "images/p5.jpg").unlink()
    with pytest.raises(UserError, match="has no picture p5"):
        masks_to_png(predictions, source / "images", tmp_path / "other")


@pytest.fixture
def isic(tmp_path: Path) -> Path:
    """A dozen pictures as the challenge ships them."""
    root = tmp_path / "ISIC_2017"
    number = 0
    for folder, word, count in (("train", "Training", 6), ("val", "Validation", 2), ("test", "Test_v2", 4)):
        rows = []
        for _ in range(count):
            name = f"ISIC_{number:07d}"
            data = root / folder / f"ISIC-2017_{word}_Data"
            save(data / f"{name}.jpg", colours(number, (40, 60)))
            save(data / f"{name}_superpixels.png", colours(number, (40, 60)))
            mask = (colours(number, (40, 60))[..., 0] > 128).astype(np.uint8) * 255
            save(root / folder / f"ISIC-2017_{word}_Part1_GroundTruth" / f"{name}_segmentation.png", mask)
            rows.append((name, f"{number % 3 == 0:.1f}", f"{number % 3 == 1:.1f}"))
            number += 1
        with (root / folder / f"ISIC-2017_{word}_Part3_GroundTruth.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image_id", "melanoma", "seborrheic_keratosis"), *rows])
    return root


def test_isic_2017_keeps_its_split_and_its_labels(nnunet: Path, isic: Path) -> None:
    found = convert_isic2017(isic, dataset_id=1, name="ISIC2017", fullsup_id=2)
    assert (found.train, found.val, found.test, found.test_masks) == (6, 2, 4, 4)
    main = nnunet / "raw/Dataset001_ISIC2017"
    splits = json.loads((main / "splits_final.json").read_text())
    assert splits[0]["train"] == [f"ISIC_{n:07d}" for n in range(6)]
    assert splits[0]["val"] == [f"ISIC_{n:07d}" for n in (6, 7)]
    with (main / "image_labels.csv").open() as file:
        assert {row["case"]: row["label"] for row in csv.DictReader(file)} == {
            f"ISIC_{n:07d}": str(int(n % 3 == 0)) for n in range(8)
        }
    assert len(list((main / "labelsTs").iterdir())) == 4
    assert not list((main / "labelsTr").iterdir())


@pytest.mark.parametrize(
    "gone", ["val/ISIC-2017_Validation_Part3_GroundTruth.csv", "test/ISIC-2017_Test_v2_Part1_GroundTruth"]
)
def test_missing_part_of_isic_is_named(nnunet: Path, isic: Path, gone: str) -> None:
    (isic / gone).rename(isic / "elsewhere")
    with nothing_is_made(nnunet, Path(gone).name):
        convert_isic2017(isic, dataset_id=1, name="ISIC2017")
