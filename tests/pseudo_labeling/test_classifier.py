"""The slice classifier: what it is built from, that it learns, stops and resumes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.classifier import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SliceClassifier,
    TrainingState,
    build_classifier,
    classifier_input,
    classifier_slices,
    held_out_cases,
    train_classifier,
)
from pseudo_labeling.run import classifier_files as training_files
from pseudo_labeling.run.classifier_files import load_state, saved_now_and_then, write_npz
from pseudo_labeling.settings import ClassifierSettings

SMALL = ClassifierSettings(image_size=32, batch_size=8, learning_rate=1e-2, epochs=4, patience=9)


def squares(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, half of it with a bright square: the simplest tumour."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, 32, 32)).astype(np.uint8)
    labels = (np.arange(count) % 2).astype(np.int64)
    for index in np.flatnonzero(labels):
        y, x = rng.integers(4, 20, 2)
        images[index, y : y + 8, x : x + 8] = 230
    return images, labels


def tiny() -> SliceClassifier:
    """A backbone small enough to train in a second."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    return SliceClassifier(backbone, IMAGENET_MEAN, IMAGENET_STD)


def train(settings: ClassifierSettings, **more: object) -> tuple[torch.nn.Module, TrainingState]:
    images, labels = squares(64, 0)
    model = tiny()
    held_out = np.arange(64) % 4 == 3
    return model, train_classifier(model, images, labels, held_out, settings, seed=0, **more)  # type: ignore[arg-type]


def test_learns_and_generalises() -> None:
    model, state = train(replace(SMALL, epochs=12))
    images, labels = squares(40, 9)
    with torch.no_grad():
        predicted = model(classifier_input(images)).argmax(dim=1).numpy()
    assert (predicted == labels).mean() >= 0.9
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"]


def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole, _ = train(SMALL)
    path = tmp_path / "state.pt"

    class Killed(Exception):  # noqa: N818
        pass

    def save(state: TrainingState) -> None:
        torch.save(vars(state), path)
        if state.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(SMALL, on_epoch=save)
    resumed, _ = train(SMALL, state=TrainingState(**torch.load(path, weights_only=True)))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_state_is_saved_at_once_and_then_no_oftener_than_every_half_minute(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    path, saved = tmp_path / "state.pt", []
    clock = iter([100.0, 100.0, 110.0, 129.0, 131.0, 131.0])  # read before each decision and after each file
    monkeypatch.setattr(training_files, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    save = saved_now_and_then(path, "key")

    def on_epoch(state: TrainingState) -> None:
        save(state)
        found = load_state(path, "key")
        assert found is not None
        saved.append(found.epoch)

    train(SMALL, on_epoch=on_epoch)
    assert saved == [1, 1, 1, 4]
    assert load_state(path, "another key") is None


def test_maps_are_read_back_to_the_bit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cam = np.random.default_rng(0).random((3, 20, 30)).astype(np.float16)
    write_npz(tmp_path / "cam.npz", cam=cam)
    with np.load(tmp_path / "cam.npz") as arrays:
        assert arrays.files == ["cam"]
        assert arrays["cam"].dtype == np.float16
        assert np.array_equal(arrays["cam"], cam)


def test_stops_early_and_keeps_the_best_epoch() -> None:
    settings = ClassifierSettings(image_size=32, learning_rate=0.3, epochs=50, patience=2)
    _, state = train(settings)
    losses = [entry["held_out_loss"] for entry in state.history]
    assert state.epoch < 50
    assert state.epoch - state.best_epoch == 2
    assert state.best_loss == min(losses) == losses[state.best_epoch - 1]


def test_held_out_samples_never_train() -> None:
    images, labels = squares(32, 0)
    held_out = np.arange(32) >= 24
    seen: list[np.ndarray] = []

    def record(batch: np.ndarray, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen.append(samples)
        return batch

    model = tiny()
    train_classifier(model, images, labels, held_out, SMALL, seed=0, augmentation=record)
    assert set(np.concatenate(seen)) == set(range(24))


def test_with_nothing_held_out_every_sample_trains_and_the_last_epoch_is_kept() -> None:
    images, labels = squares(32, 0)
    nothing = held_out_cases(np.repeat(["a", "b", "c", "d"], 8), 0.0, seed=0)
    assert not nothing.any()
    settings = replace(SMALL, epochs=4, patience=1)
    model = tiny()
    state = train_classifier(model, images, labels, nothing, settings, seed=0)
    assert (state.epoch, state.best_epoch) == (4, 4)
    assert [entry["held_out_loss"] for entry in state.history] == [None] * 4
    assert all(torch.equal(value, state.model[name]) for name, value in model.state_dict().items())  # type: ignore[index]


@pytest.mark.parametrize("cases", [["a"] * 12, ["a"] * 7 + ["b"] * 5, ["a", "b"]])
@pytest.mark.parametrize("seed", range(5))
def test_few_cases_still_have_samples_to_train_and_to_judge(cases: list[str], seed: int) -> None:
    held_out = held_out_cases(np.array(cases), 0.2, seed)
    assert 0 < held_out.sum() < len(cases)


def test_a_loss_that_is_no_number_is_beaten_by_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([float("nan"), 0.7, 0.8])
    monkeypatch.setattr("pseudo_labeling.classifier.evaluate_loss", lambda *_: next(losses))
    _, state = train(replace(SMALL, epochs=3))
    assert (state.best_epoch, state.best_loss) == (2, 0.7)


def test_a_training_that_diverges_is_named() -> None:
    with pytest.raises(UserError, match=r"diverged.*settings\.classifier\.learning_rate \(now 1e\+30\)"):
        train(replace(SMALL, learning_rate=1e30, patience=2))


def test_held_out_are_whole_cases() -> None:
    cases = np.repeat([f"c{i}" for i in range(10)], 7)
    held_out = held_out_cases(cases, 0.2, seed=1)
    assert held_out.sum() == 14
    assert all(held_out[cases == case].all() or not held_out[cases == case].any() for case in np.unique(cases))
    assert not np.array_equal(held_out, held_out_cases(cases, 0.2, seed=2))


def test_resnet50_starts_from_imagenet_weights() -> None:
    torch.manual_seed(5)
    published = torchvision.models.resnet50(weights=None)
    model, origin = build_classifier(ClassifierSettings(backbone="resnet50"), None, published.state_dict(), seed=0)
    assert torch.equal(model.backbone.layer3[0].conv1.weight, published.layer3[0].conv1.weight)
    assert model.backbone.fc.out_features == 2
    assert "ImageNet" in origin


@pytest.mark.parametrize(
    ("name", "says"), [("resnet1e9", "neither"), ("squeezenet1_0", "no linear layer"), ("clip", "no ResNet")]
)
def test_unfit_backbone_is_named(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_classifier(ClassifierSettings(backbone=name), None, None, seed=0)


def test_resizing_keeps_a_constant_slice_constant() -> None:
    slices = classifier_slices(np.full((2, 50, 70), 77, dtype=np.uint8), 32)
    assert slices.shape == (2, 32, 32)
    assert (slices == 77).all()
