from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.errors import UserError
from dataset_conversion.sources.lgg import convert_lgg
from tests.helpers.volume_files import geometry, nothing_is_made, read, tree

CASES = [f"TCGA_CS_{4940 + i}_199609{10 + i}" for i in range(10)]
SLICES = 12  # more than nine, so that order by name differs from order by number


def stack(seed: int) -> np.ndarray:
    """`(z, y, x, 3)` uint8: pre-contrast, FLAIR, post-contrast."""
    return np.random.default_rng(seed).integers(0, 256, (SLICES, 8, 9, 3)).astype(np.uint8)


def mask(seed: int) -> np.ndarray:
    return (np.random.default_rng(100 + seed).random((SLICES, 8, 9)) > 0.8).astype(np.uint8) * 255


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "kaggle_3m"
    for seed, case in enumerate(CASES):
        (root / case).mkdir(parents=True)
        for z, (colour, label) in enumerate(zip(stack(seed), mask(seed), strict=True), start=1):
            Image.fromarray(colour).save(root / case / f"{case}_{z}.tif")
            Image.fromarray(label).save(root / case / f"{case}_{z}_mask.tif")
    (root / "data.csv").write_text("Patient\n")
    return root


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": CASES[:2], "val": CASES[2:3], "test": CASES[3:4]}))
    return path


@pytest.mark.parametrize("levels_above", [0, 1])
def test_green_channel_in_order_of_slice_numbers(nnunet: Path, source: Path, split: Path, levels_above: int) -> None:
    given = source if levels_above == 0 else source.parent
    convert_lgg(given, dataset_id=1, split=split, fullsup_id=2)
    main, twin = nnunet / "raw/Dataset001_LGG", nnunet / "raw/Dataset002_LGG_fullsup"
    assert list((main / "labelsTr").iterdir()) == []
    for seed in range(4):
        part = "Ts" if seed == 3 else "Tr"
        image = main / f"images{part}/{CASES[seed]}_0000.nii.gz"
        np.testing.assert_array_equal(read(image), stack(seed)[..., 1])
        assert read(image).dtype == np.uint8
        label = (main if part == "Ts" else twin) / f"labels{part}/{CASES[seed]}.nii.gz"
        np.testing.assert_array_equal(read(label), mask(seed) > 0)
        np.testing.assert_allclose(geometry(image)[:6], [1, 1, 11.67, 0, 0, 0], atol=1e-5)  # 140 mm / 12 slices
        np.testing.assert_allclose(geometry(label), geometry(image))


def test_split_is_70_10_20_by_default_and_repeats(nnunet: Path, source: Path) -> None:
    summary = convert_lgg(source, dataset_id=1, seed=4)
    assert (summary.train, summary.val, summary.test, summary.test_masks) == (7, 1, 2, 2)
    assert summary.split == "drawn 70:10:20 with seed 4"
    convert_lgg(source, dataset_id=2, seed=4)
    assert tree(nnunet / "raw/Dataset001_LGG") == tree(nnunet / "raw/Dataset002_LGG")


class TestBadInput:
    def fails(self, nnunet: Path, message: str, source: Path, **options: object) -> None:
        with nothing_is_made(nnunet, message):
            convert_lgg(source, dataset_id=1, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("number", [1, 7, SLICES])
    def test_missing_slice_is_named(self, nnunet: Path, source: Path, split: Path, number: int) -> None:
        (source / CASES[0] / f"{CASES[0]}_{number}.tif").unlink()
        self.fails(nnunet, rf"{CASES[0]}_{number}\.tif: slice is missing", source, split=split)

    def test_missing_mask_slice_matters_only_where_masks_are_used(
        self, nnunet: Path, source: Path, split: Path
    ) -> None:
        for case in (CASES[0], CASES[3]):
            (source / case / f"{case}_5_mask.tif").unlink()
        self.fails(nnunet, rf"{CASES[3]}_5_mask\.tif: slice is missing", source, split=split)
        Image.fromarray(mask(3)[4]).save(source / CASES[3] / f"{CASES[3]}_5_mask.tif")
        convert_lgg(source, dataset_id=5, split=split)
        with pytest.raises(UserError, match=rf"{CASES[0]}_5_mask\.tif: slice is missing"):
            convert_lgg(source, dataset_id=6, split=split, fullsup_id=7)

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
    @pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
    def test_truncated_slice(self, nnunet: Path, source: Path, split: Path, compression: str, keep: float) -> None:
        path = source / CASES[1] / f"{CASES[1]}_3.tif"
        Image.fromarray(np.tile(stack(1)[0], (20, 20, 1))).save(path, compression=compression)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        self.fails(nnunet, rf"{CASES[1]}_3\.tif: cannot be read", source, split=split)

    def test_slice_that_is_no_image(self, nnunet: Path, source: Path, split: Path) -> None:
        path = source / CASES[1] / f"{CASES[1]}_3.tif"
        path.write_text("no image\n" * 50)
        self.fails(nnunet, rf"{CASES[1]}_3\.tif: cannot be read", source, split=split)

    def test_slice_of_other_size_or_colours(self, nnunet: Path, source: Path, split: Path) -> None:
        path = source / CASES[1] / f"{CASES[1]}_3.tif"
        Image.fromarray(stack(1)[0][:-1]).save(path)
        self.fails(nnunet, rf"{CASES[1]}: needs two or more slices of one size", source, split=split)
        Image.fromarray(mask(1)[0]).save(path)
        self.fails(nnunet, rf"{CASES[1]}_3\.tif: pixel mode L, expected RGB", source, split=split)

    def test_patient_without_slices(self, nnunet: Path, source: Path, split: Path) -> None:
        for file in (source / CASES[2]).iterdir():
            file.unlink()
        self.fails(nnunet, rf"{CASES[2]}_1\.tif: slice is missing", source, split=split)

    def test_no_such_data(self, nnunet: Path, tmp_path: Path) -> None:
        self.fails(nnunet, "no such folder", tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        self.fails(nnunet, "empty: has no case folder", tmp_path / "empty")
