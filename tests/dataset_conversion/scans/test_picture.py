"""Pictures and their masks: colours kept, turned and made smaller together, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageOps

from dataset_conversion.errors import UserError
from dataset_conversion.scans.picture import THICKNESS, picture_size, read_picture, read_picture_mask, reduced
from tests.helpers.picture_files import colours, save


def pixels(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)[0]


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_colours_are_kept(tmp_path: Path, ending: str) -> None:
    image = read_picture(save(tmp_path / f"a{ending}", colours()))
    np.testing.assert_array_equal(pixels(image), colours())
    assert image.GetSize() == (30, 20, 1)
    assert image.GetSpacing() == (1.0, 1.0, THICKNESS)


def test_grey_becomes_three_equal_colours_and_opaque_alpha_goes(tmp_path: Path) -> None:
    grey = colours()[..., 0]
    np.testing.assert_array_equal(pixels(read_picture(save(tmp_path / "g.png", grey))), grey[..., None].repeat(3, 2))
    opaque = np.dstack([colours(), np.full((20, 30), 255, np.uint8)])
    np.testing.assert_array_equal(pixels(read_picture(save(tmp_path / "o.png", opaque))), colours())


def test_large_picture_and_its_mask_are_made_smaller_together(tmp_path: Path) -> None:
    picture = save(tmp_path / "a.png", colours(shape=(40, 80)))
    mask = np.zeros((40, 80), np.uint8)
    mask[:20, :40] = 255
    small = pixels(read_picture(picture, max_edge=20))
    assert small.shape == (10, 20, 3)
    blocks = colours(shape=(40, 80)).reshape(10, 4, 20, 4, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 1  # Pillow rounds once along each axis
    found = pixels(read_picture_mask(save(tmp_path / "m.png", mask), picture, max_edge=20))
    np.testing.assert_array_equal(found, mask[::4, ::4])
    assert reduced((6748, 4499), 1024) == (1024, 683)


@pytest.mark.parametrize("turned", range(2, 9))
@pytest.mark.parametrize("how", ["mask as shown", "mask as stored", "mask with the same mark"])
def test_picture_and_mask_stay_together_when_turned(tmp_path: Path, turned: int, how: str) -> None:
    stored = colours()
    lesion = (stored[..., 0] > 100).astype(np.uint8) * 255
    picture = save(tmp_path / "a.png", stored, turned=turned)
    shown = pixels(read_picture(picture))
    upright = ImageOps.exif_transpose(Image.open(picture))
    np.testing.assert_array_equal(shown, np.asarray(upright))
    assert picture_size(picture) == upright.size
    expected = (shown[..., 0] > 100).astype(np.uint8) * 255
    if how == "mask as shown":
        mask = save(tmp_path / "m.png", expected)
    else:
        mask = save(tmp_path / "m.png", lesion, turned=turned if how == "mask with the same mark" else None)
    if turned < 5 and how != "mask with the same mark":  # the same size either way: nobody can tell
        with pytest.raises(UserError, match="cannot be told"):
            read_picture_mask(mask, picture)
    else:
        np.testing.assert_array_equal(pixels(read_picture_mask(mask, picture)), expected)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 1, 2)])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_masks_as_people_save_them(tmp_path: Path, values: tuple[int, ...], mode: str) -> None:
    picture = save(tmp_path / "a.png", colours())
    array = np.array(values, np.uint8)[np.random.default_rng(1).integers(0, len(values), (20, 30))]
    Image.fromarray(array).point(lambda v: 255 if v and mode == "1" else v).convert(mode).save(tmp_path / "m.png")
    found = pixels(read_picture_mask(tmp_path / "m.png", picture))
    np.testing.assert_array_equal(found > 0, array > 0)


def refused(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind.replace(' ', '_')}.png"
    if kind == "CMYK":
        path = path.with_suffix(".jpg")
        Image.fromarray(colours()).convert("CMYK").save(path)
    elif kind == "16 bit":
        Image.fromarray(colours()[..., 0].astype(np.uint16) * 257).save(path)
    elif kind == "transparent":
        save(path, np.dstack([colours(), np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)]))
    elif kind == "one pixel":
        save(path, colours(shape=(1, 30)))
    elif kind == "cannot be read":
        path.write_bytes(save(tmp_path / "whole.png", colours()).read_bytes()[:200])
    else:
        path = path.with_suffix(".tif")
        pages = [Image.fromarray(colours(seed)) for seed in range(2)]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


@pytest.mark.parametrize("kind", ["CMYK", "16 bit", "transparent", "one pixel", "cannot be read", "pages"])
def test_what_is_refused_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    path = refused(tmp_path, kind)
    with pytest.raises(UserError, match=kind) as error:
        read_picture(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_mask_that_is_none_is_refused(tmp_path: Path) -> None:
    picture = save(tmp_path / "a.png", colours())
    for array, words in (
        (colours()[..., 0], "no mask's"),
        (colours(), "in colours"),
        (np.zeros((19, 30), np.uint8), r"\(30, 19\) pixels"),
    ):
        with pytest.raises(UserError, match=words):
            read_picture_mask(save(tmp_path / "m.png", array), picture)
