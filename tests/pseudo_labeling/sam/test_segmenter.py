"""SAM masks against segment_anything's own SamPredictor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import Region
from pseudo_labeling.sam.decoder import ScoredMasks
from pseudo_labeling.sam.segmenter import SamSegmenter, Segmented, smoothed
from pseudo_labeling.settings import PromptSettings, SamSettings
from pseudo_labeling.slices import window_volume
from pseudo_labeling.weights import models


@pytest.fixture(scope="module")
def sam() -> Iterator[Sam]:
    threads = torch.get_num_threads()
    yield models.load_sam("embedded", "cpu").model
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[(128, 128), (150, 110)])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    volume, mask = phantom_volume(np.random.default_rng(5), (18, *request.param))
    return window_volume(volume), mask


def predicted(sam: Sam, image: np.ndarray, prompt: Prompt) -> np.ndarray:
    predictor = SamPredictor(sam)
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    masks, _, _ = predictor.predict(
        point_coords=prompt.points, point_labels=prompt.point_labels, box=prompt.box, multimask_output=False
    )
    found: np.ndarray = masks[0]
    return found


@pytest.mark.parametrize(
    "settings",
    [
        PromptSettings(kind="box"),
        PromptSettings(kind="points"),
        PromptSettings(kind="both", margin=10),
        PromptSettings(kind="both", points="intensity"),
    ],
    ids=lambda s: f"{s.kind}-{s.points}-{s.margin}",
)
def test_masks_equal_sam_predictor(sam: Sam, case: tuple[np.ndarray, np.ndarray], settings: PromptSettings) -> None:
    images, roi = case
    prompts = prompts_from_roi(roi, images, settings, 1.0)
    masks = SamSegmenter(sam).masks(images, prompts)
    compared = 0
    for image, prompt, mask in zip(images, prompts, masks, strict=True):
        if prompt is None:
            assert not mask.any()
        else:
            np.testing.assert_array_equal(mask, predicted(sam, image, prompt))
            compared += 1
    assert compared >= 3
    assert masks.any()


def test_equalisation_is_applied_before_sam(sam: Sam, case: tuple[np.ndarray, np.ndarray]) -> None:
    images, roi = case
    z = int(roi.sum(axis=(1, 2)).argmax())
    prompts = prompts_from_roi(roi[z : z + 1], images[z : z + 1], PromptSettings(), 1.0)
    equalised = np.asarray(ImageOps.equalize(Image.fromarray(images[z])))
    prompt = prompts[0]
    assert prompt is not None
    mask = SamSegmenter(sam, SamSettings(equalise=True)).masks(images[z : z + 1], prompts)[0]
    np.testing.assert_array_equal(mask, predicted(sam, equalised, prompt))


def test_a_slice_does_not_depend_on_its_neighbours(sam: Sam, case: tuple[np.ndarray, np.ndarray]) -> None:
    images, roi = case
    prompts = prompts_from_roi(roi, images, PromptSettings(), 1.0)
    together = SamSegmenter(sam).masks(images, prompts)
    z = next(i for i, p in enumerate(prompts) if p is not None)
    alone = SamSegmenter(sam).masks(images[z : z + 1], prompts[z : z + 1])
    np.testing.assert_array_equal(together[z], alone[0])


def test_two_passes_prompt_again_from_the_first_masks(sam: Sam, case: tuple[np.ndarray, np.ndarray]) -> None:
    images, truth = case
    prompting = PromptSettings(margin=10)
    roi = truth.copy()
    roi[:, :, : truth.shape[2] // 2] &= np.indices(truth.shape[:2]).sum(0)[..., None] % 3 > 0  # a ragged region
    once, prompts, *_ = SamSegmenter(sam).segment(images, [Region(roi)], prompting, 1.0)
    np.testing.assert_array_equal(once, SamSegmenter(sam).masks(images, prompts_from_roi(roi, images, prompting, 1.0)))
    twice, shown, *_ = SamSegmenter(sam, SamSettings(passes=2)).segment(images, [Region(roi)], prompting, 1.0)
    expected = SamSegmenter(sam).masks(images, prompts_from_roi(once, images, prompting, 1.0))
    np.testing.assert_array_equal(twice, expected)
    boxes = [[None if p is None else p.box.tolist() for p in each] for each in (shown, prompts)]
    assert boxes[0] == boxes[1], "the overlay shows what the region asked for"


def test_small_components_of_the_masks_are_dropped(sam: Sam, case: tuple[np.ndarray, np.ndarray]) -> None:
    images, truth = case
    roi = truth.copy()
    z = int(truth.sum((1, 2)).argmin())  # a slice without the lesion gets a prompt all the same
    roi[z, 50:80, 50:80] = True
    plain, *_ = SamSegmenter(sam).segment(images, [Region(roi)], PromptSettings(margin=10), 1.0)
    whole = SamSegmenter(sam, SamSettings(keep_fraction=1.0))
    cleaned, *_ = whole.segment(images, [Region(roi)], PromptSettings(margin=10), 1.0)
    assert not (cleaned & ~plain).any()
    assert ndimage.label(cleaned, structure=np.ones((3, 3, 3)))[1] == 1


def test_candidates_agree_less_where_the_prompt_says_little(sam: Sam, case: tuple[np.ndarray, np.ndarray]) -> None:
    images, roi = case
    prompting = PromptSettings(kind="box", margin=5)
    alone = SamSegmenter(sam).segment(images, [Region(roi)], prompting, 1.0)
    assert np.isnan(alone.agreement).all()

    def several(seed: int = 0, jitter: float = 0.05, **settings: object) -> Segmented:
        segmenter = SamSegmenter(sam, SamSettings(candidates=5, jitter=jitter, **settings))  # type: ignore[arg-type]
        return segmenter.segment(images, [Region(roi)], prompting, 1.0, seed=seed)

    near, far = several(), several(jitter=0.8)
    asked = roi.any((1, 2))
    assert (np.isnan(near.agreement) == ~asked).all()
    assert np.nanmean(near.agreement) > np.nanmean(far.agreement)
    np.testing.assert_array_equal(several().mask, near.mask)
    assert (several(seed=1, jitter=0.8).mask != far.mask).any()
    np.testing.assert_array_equal(several(jitter=0.8, choose="first").mask, alone.mask)  # the unmoved prompt's


def test_clean_up_opens_closes_and_fills_each_slice() -> None:
    masks = np.zeros((2, 30, 30), bool)
    masks[0, 5:20, 5:20] = True
    masks[0, 10:13, 10:13] = False  # a hole
    masks[0, 25, 25] = True  # a speck
    masks[0, 5:20, 0:5] = True  # touches the frame
    masks[1, 4, :] = True  # a line in a slice of its own
    cleaned = smoothed(masks, 3)
    assert cleaned[0, 5:20, 0:20].all()
    assert cleaned[0].sum() == 15 * 20
    assert not cleaned[1].any()
    assert smoothed(masks, 0) is masks


def test_regions_of_several_methods_are_candidates(sam: Sam, case: tuple[np.ndarray, np.ndarray]) -> None:
    images, roi = case
    z = int(roi.sum((1, 2)).argmax())
    elsewhere = np.zeros_like(roi)
    elsewhere[z, 40:60, 40:60] = True
    prompting = PromptSettings(kind="box", margin=5)
    seen: dict[int, ScoredMasks] = {}

    def last(slice_number: int, candidates: ScoredMasks) -> int:
        seen[slice_number] = candidates
        return len(candidates.masks) - 1

    segmenter = SamSegmenter(sam, SamSettings(choose="first"))
    regions = [Region(roi), Region(elsewhere)]
    found = segmenter.segment(images, regions, prompting, 1.0)
    alone = [segmenter.segment(images, [region], prompting, 1.0).mask for region in regions]
    np.testing.assert_array_equal(found.mask, alone[0])  # the first region's where all of it is chosen
    chosen = segmenter.segment(images, regions, prompting, 1.0, pick=last)
    np.testing.assert_array_equal(chosen.mask[z], alone[1][z])
    assert len(seen[z].masks) == 2
    assert set(seen) == set(np.flatnonzero(roi.any((1, 2)))), "a slice that only one region marks has one candidate"
    assert found.votes is not None
    np.testing.assert_allclose(found.votes[z], (alone[0][z].astype(float) + alone[1][z]) / 2, atol=1e-3)


def test_colours_reach_sam(sam: Sam) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (1, 40, 60)).astype(np.uint8)
    colour = grey[..., None].repeat(3, -1)
    roi = np.zeros((1, 40, 60), bool)
    roi[0, 10:30, 10:40] = True
    segmenter = SamSegmenter(sam)
    same = [segmenter.segment(images, [Region(roi)], PromptSettings(), 1.0).mask for images in (grey, colour)]
    np.testing.assert_array_equal(*same)
    inputs = [segmenter.encoder.inputs([images[0]]) for images in (grey, colour)]
    assert inputs[1].shape == (1, 3, *inputs[0].shape[2:])
    assert torch.equal(inputs[1], inputs[0].expand(-1, 3, -1, -1))
    other = colour.copy()
    other[..., 2] = 0
    assert not torch.equal(
        segmenter.encoder.encode(segmenter.encoder.inputs([other[0]])), segmenter.encoder.encode(inputs[1])
    )
