"""Phantoms: reproducible, true to their masks, twins that differ by the lesion alone, volumes that hang together."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pseudo_labeling.embedded.fields import Field, blur
from pseudo_labeling.embedded.phantoms import Protocol, phantom_slice, phantom_volume
from pseudo_labeling.slices import window_volume
from tools.embedded.pool import load_pool, make_pool, pool_slice


@pytest.mark.parametrize("stripped", [False, True])
def test_same_seed_gives_same_slice_and_other_seed_another(stripped: bool) -> None:
    one, again, other = (phantom_slice(np.random.default_rng(seed), stripped=stripped) for seed in (3, 3, 4))
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.mask, again.mask)
    assert not np.array_equal(one.image, other.image)


def test_mask_is_empty_without_lesion_and_never_with_one() -> None:
    for seed in range(12):
        with_lesion = phantom_slice(np.random.default_rng(seed), size=128)
        without = phantom_slice(np.random.default_rng(seed), size=128, lesion=False)
        assert with_lesion.mask.any()
        assert with_lesion.image.dtype == np.uint8
        assert not without.mask.any()
        assert np.array_equal(without.image, without.twin)


def test_twins_differ_at_the_lesion_and_are_equal_far_from_it() -> None:
    for seed in range(8):
        phantom = phantom_slice(np.random.default_rng(seed))
        change = np.abs(phantom.image.astype(int) - phantom.twin)
        far = blur(phantom.mask.astype(np.float32), 12.0) < 1e-6
        assert change[phantom.mask].mean() > 3
        assert change[far].max(initial=0) <= 1


def test_stripped_head_has_air_of_exactly_zero_and_head_with_skull_a_bright_rim() -> None:
    stripped = phantom_slice(np.random.default_rng(1), stripped=True)
    assert (stripped.image == 0).mean() > 0.2
    rims = []
    for seed in range(10):
        head = phantom_slice(np.random.default_rng(seed), stripped=False)
        rims.append(np.percentile(head.twin, 99) / np.median(head.twin[head.twin > 40]))
    assert np.median(rims) > 1.4


def test_anatomy_has_ventricles_at_their_level_only() -> None:
    from pseudo_labeling.embedded.anatomy import Head

    inside = {}
    for level in (0.58, 0.9):
        shares = []
        for seed in range(6):
            anatomy = Head(np.random.default_rng(seed), stripped=True).slice(level, 128)
            middle = (np.abs(anatomy.x) < 0.35) & (np.abs(anatomy.x) > 0.05) & (np.abs(anatomy.y) < 0.4)
            shares.append(anatomy.fluid[middle].mean())
        inside[level] = np.mean(shares)
    assert inside[0.58] > 2 * inside[0.9]


@pytest.mark.parametrize("shape", [(24, 128, 128), (28, 160, 144)])
def test_volume_lesion_spans_neighbouring_slices(shape: tuple[int, int, int]) -> None:
    volume, mask = phantom_volume(np.random.default_rng(5), shape)
    assert volume.shape == mask.shape == shape
    assert volume.dtype == np.float32
    assert mask.dtype == bool
    touched = np.flatnonzero(mask.any((1, 2)))
    assert len(touched) >= 3
    assert len(touched) < shape[0]
    assert touched[-1] - touched[0] + 1 <= len(touched) + 2
    biggest = mask.sum((1, 2)).argmax()
    neighbour = biggest + 1 if biggest + 1 < shape[0] and mask[biggest + 1].any() else biggest - 1
    overlap = 2 * (mask[biggest] & mask[neighbour]).sum() / (mask[biggest].sum() + mask[neighbour].sum())
    assert overlap > 0.5


def test_neighbouring_slices_of_a_volume_look_alike_and_slices_of_other_heads_do_not() -> None:
    volume, _ = phantom_volume(np.random.default_rng(8), (24, 96, 96), lesion=False, stripped=False)
    other, _ = phantom_volume(np.random.default_rng(9), (24, 96, 96), lesion=False, stripped=False)
    near = np.corrcoef(volume[12].ravel(), volume[13].ravel())[0, 1]
    assert near > 0.85
    assert near > np.corrcoef(volume[12].ravel(), other[12].ravel())[0, 1]


def test_volume_without_lesion_has_empty_mask() -> None:
    volume, mask = phantom_volume(np.random.default_rng(2), (10, 64, 64), lesion=False)
    assert not mask.any()
    assert np.isfinite(volume).all()
    assert window_volume(volume).max() == 255


def test_lesion_of_a_volume_is_visible_after_windowing() -> None:
    volume, mask = phantom_volume(np.random.default_rng(11), (20, 128, 128))
    images = window_volume(volume).astype(float)
    brain = (images > 30) & ~mask & mask.any((1, 2))[:, None, None]
    assert abs(np.median(images[mask]) - np.median(images[brain])) > 8


def test_field_has_unit_variance_and_follows_the_level() -> None:
    values = np.concatenate([Field(np.random.default_rng(seed), 9).at(0.5, 64).ravel() for seed in range(40)])
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1
    field = Field(np.random.default_rng(0), 6, planes=8)
    steps = [np.abs(field.at(level, 32) - field.at(0.3, 32)).mean() for level in (0.3, 0.33, 0.7)]
    assert steps[0] == 0
    assert steps[1] < steps[2]


def test_pool_does_not_depend_on_the_number_of_processes(tmp_path) -> None:
    pool = make_pool(tmp_path / "pool", 70, seed=4, workers=2)
    for index in (0, 4, 65):
        images, mask, facts = pool_slice(4, 0, index)
        assert np.array_equal(pool.images[index], images)
        assert np.array_equal(pool.masks[index], mask)
        assert np.array_equal(pool.facts[index], facts)
    assert not pool.masks[4].any()
    assert pool.masks[3].any()
    assert not np.array_equal(pool_slice(4, 1, 0)[0], pool.images[0]), "held-out slices must not be training slices"
    assert len(load_pool(tmp_path / "pool")) == 70


def test_slices_are_made_fast_enough_to_train_on() -> None:
    rng = np.random.default_rng(0)
    phantom_slice(rng)
    start = time.thread_time()
    for _ in range(10):
        phantom_slice(rng)
    assert (time.thread_time() - start) / 10 < 0.1  # about 0.015 s on one core; slack for busy machines


def test_cases_of_one_protocol_look_alike() -> None:
    """Scalp against brain, which the sequence decides, varies far more between protocols than within one."""

    def looks(protocol: Protocol, number: int) -> float:
        rng = np.random.default_rng([7, number])
        volume, _ = phantom_volume(rng, (8, 96, 96), stripped=False, lesion=False, protocol=protocol)
        middle = volume[5]
        return float(np.log(np.percentile(middle, 99.5) / np.median(middle[36:60, 36:60])))

    protocols = [Protocol.draw(np.random.default_rng([3, seed]), stripped=False) for seed in range(6)]
    found = np.array([[looks(protocol, number) for number in range(4)] for protocol in protocols])
    assert found.mean(axis=1).std() > 2 * found.std(axis=1).mean()


def test_the_noise_of_a_protocol_is_seen_in_the_air() -> None:
    def air(noise: float) -> float:
        protocol = Protocol.draw(np.random.default_rng(0), stripped=False, noise=noise)
        volume, _ = phantom_volume(np.random.default_rng(1), (4, 96, 96), stripped=False, protocol=protocol)
        return float(volume[:, :8, :8].std())

    assert 5 < air(0.18) / air(0.02) <= 9.5  # nine times the noise; a little else is in the air too
