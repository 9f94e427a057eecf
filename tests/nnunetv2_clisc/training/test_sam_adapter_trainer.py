"""AISCT-SAM's trainer on a tiny dataset with a mirrored channel: what learns, what is stored, what predicts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training import sam_adapter_trainer as trainers
from nnunetv2_clisc.training.checkpoints import export_stock, read_checkpoint
from nnunetv2_clisc.training.relabel import predictor_of
from nnunetv2_clisc.training.sam_adapter_trainer import SamAdapterTrainer
from tests.helpers.mirrored_dataset import QuickAdapter, QuickAdapter_noMirror, QuickRandom, QuickRounds
from tests.helpers.tiny_nnunet import CASES, TinyDataset, python


def test_schedule_is_the_public_codes(both: TinyDataset) -> None:
    trainer: Any = both.trainer(SamAdapterTrainer)
    trainer.initialize()
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], trainer.num_epochs, trainer.min_iterations) == (1e-4, 3e-5, 500, 250)
    assert not trainer.enable_deep_supervision
    learning = {id(p) for p in trainer.network.parameters() if p.requires_grad}
    assert {id(p) for p in group["params"]} == learning
    assert trainer.configuration_manager.patch_size == [18, 48, 48]  # 20 x 256 x 256, no larger than the scans


def test_augmentation_does_the_same_to_both_channels(both: TinyDataset) -> None:
    """Of two equal channels both stay equal, and each transform is as likely as nnU-Net's for a channel."""
    arguments: Any = [(8, 32, 32), (-0.5, 0.5), None, (0, 1, 2), False]
    ours = QuickAdapter.get_training_transforms(*arguments)
    stock = SamAdapterTrainer.__mro__[-2].get_training_transforms(*arguments)  # type: ignore[attr-defined]
    for mine, theirs in zip(ours.transforms, stock.transforms, strict=True):
        if isinstance(theirs, RandomTransform):
            per_channel = getattr(theirs.transform, "p_per_channel", 1)
            assert mine.apply_probability == pytest.approx(theirs.apply_probability * per_channel)
    tried = 0
    for outer in ours.transforms:
        if isinstance(outer, RandomTransform) and not isinstance(outer.transform, GaussianNoiseTransform):
            for seed in range(5):
                np.random.seed(seed)
                torch.manual_seed(seed)
                image = torch.randn(1, 8, 32, 32).repeat(2, 1, 1, 1)
                found = outer.transform(image=image.clone())["image"]
                torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
                tried += not torch.equal(found, image)
    assert tried == 30  # blur, brightness, contrast, resolution, two gammas


def test_training_stores_frozen_weights_once_and_nnunet_predicts_as_the_trainer(
    both: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "quick.py").write_text(f"from {__name__} import QuickAdapter\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    trainer: Any = both.trainer(QuickAdapter)
    trainer.run_training()
    fold = trainer.folder.path
    frozen = set(trainer._plain_network().frozen_names())
    final = read_checkpoint(fold / "checkpoint_final.pth")["network_weights"]
    best = read_checkpoint(fold / "checkpoint_best.pth")["network_weights"]
    assert frozen <= final.keys()
    assert not frozen & best.keys()
    stored = torch.load(fold / "checkpoint_final.pth", weights_only=True)["optimizer_state"]["state"]
    assert len(stored) == sum(p.requires_grad for p in trainer.network.parameters())
    start: Any = both.trainer(QuickAdapter)
    start.initialize()
    for name in frozen:
        torch.testing.assert_close(final[name], start.network.state_dict()[name], rtol=0, atol=0)

    scans = [[str(both.raw / "imagesTr" / f"{CASES[5]}_{channel:04d}.nii.gz") for channel in (0, 1)]]
    with pytest.raises(UserError, match="SamAdapterNet, is one of this package's own"):
        export_stock(fold, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()

    found = []
    for checkpoint in ("checkpoint_final.pth", "checkpoint_best.pth"):
        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(fold.parent), (0,), checkpoint)
        images = torch.from_numpy(_preprocessed(both, CASES[5]))
        found.append(predictor.predict_sliding_window_return_logits(images))
        assert predictor.predict_from_files(scans, None, num_processes_preprocessing=1,
                                            num_processes_segmentation_export=1)[0].shape == (18, 40, 44)  # fmt: skip
    again: Any = both.trainer(QuickAdapter)
    again.initialize()
    again.load_checkpoint(str(fold / "checkpoint_final.pth"))
    own = predictor_of(again, 0.5).predict_sliding_window_return_logits(images)
    torch.testing.assert_close(found[0], own, rtol=0, atol=2e-3)  # nnU-Net sums tiles in float16


def _network(dataset: TinyDataset) -> Any:
    trainer: Any = dataset.trainer(QuickAdapter)
    trainer.initialize()
    return trainer.network


def _preprocessed(dataset: TinyDataset, case: str) -> np.ndarray:
    file = next(dataset.preprocessed.rglob(f"{case}.b2nd"))
    return np.asarray(blosc2.open(str(file))[:], np.float32)


def test_a_training_that_was_stopped_goes_on(both: TinyDataset) -> None:
    class Stopped(QuickAdapter):
        def on_epoch_end(self) -> None:
            self.save_every = 1
            super().on_epoch_end()
            if self.current_epoch == 1:
                raise KeyboardInterrupt

    Stopped.__name__ = "QuickAdapter"
    trainer: Any = both.trainer(Stopped)
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    latest = read_checkpoint(trainer.folder.path / "checkpoint_latest.pth")["network_weights"]
    assert not set(trainer._plain_network().frozen_names()) & latest.keys()
    again: Any = both.trainer(QuickAdapter)
    again.run_training()
    assert again.folder.read_state().finished


def test_both_rounds_run_on_it_and_the_mirror_is_seen_by_the_network_alone(both: TinyDataset) -> None:
    trainer: Any = both.trainer(QuickRounds)
    trainer.run_training()
    assert trainer.folder.read_state().finished
    assert trainer.fold_data.shown(CASES[0])[0].name == f"{CASES[0]}_0000.nii.gz"


def test_the_random_encoder_is_a_control_and_keeps_its_weights(both: TinyDataset) -> None:
    trainer: Any = both.trainer(QuickRandom)
    trainer.run_training()
    frozen = trainer._plain_network().frozen_names()
    best = read_checkpoint(trainer.folder.path / "checkpoint_best.pth")["network_weights"]
    assert set(frozen) <= best.keys()
    other: Any = both.trainer(QuickAdapter)
    other.initialize()
    name = next(each for each in frozen if each.endswith("0.0.weight"))
    assert not torch.allclose(best[name], other.network.state_dict()[name])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"0": "FLAIR"}, "its channels are FLAIR, .* convert with --mirrored"),
        ({"0": "FLAIR", "1": "T1"}, "its channels are FLAIR, T1"),
    ],
)
def test_a_dataset_without_mirrored_channel_is_refused(
    channels: dict[str, str], message: str, both: TinyDataset
) -> None:
    with pytest.raises(SystemExit, match=message):
        both.trainer(QuickAdapter, channel_names=channels)
    both.trainer(QuickAdapter_noMirror, channel_names=channels)


def test_a_sam_that_cannot_be_adapted_is_named(
    both: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(1024, 3, 16, 16)}, tmp_path / "large.pth")
    monkeypatch.setenv(trainers.SAM_VARIABLE, str(tmp_path / "large.pth"))
    with pytest.raises(SystemExit, match=r"large\.pth: is a SAM vit_l; an adapted encoder is that of"):
        both.trainer(QuickAdapter)


def test_two_dimensional_plans_are_refused(both: TinyDataset) -> None:
    with pytest.raises(SystemExit, match="configuration '2d'"):
        both.trainer(QuickAdapter, configuration="2d")


def test_two_ranks_train_one_network(both: TinyDataset) -> None:
    result = python(f"from tests.helpers.two_ranks import adapting; adapting({str(both.root)!r})")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    folder = both.trainer(QuickAdapter).folder.path
    found = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["weights"] == found[1]["weights"]
    assert np.isfinite(found[0]["losses"]).all()
    final = read_checkpoint(folder / "checkpoint_final.pth")["network_weights"]
    assert set(_network(both).state_dict()) == set(final)


@pytest.mark.slow  # a compiler
def test_compiled_network_gives_the_same_loss_and_gradients(both: TinyDataset) -> None:
    trainer: Any = both.trainer(QuickAdapter)
    trainer.initialize()
    plain = trainer.network
    images = torch.randn(2, 2, 8, 32, 32)
    found = []
    for network in (plain, torch.compile(plain)):
        plain.zero_grad()
        loss = network(images).square().mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in plain.parameters() if p.grad is not None)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_pretrained_weights_are_taken_over_whole(both: TinyDataset, tmp_path: Path) -> None:
    """nnU-Net's `-pretrained_weights`, with a final checkpoint of another training of this network."""
    given: Any = both.trainer(QuickAdapter)
    given.run_training()
    final = shutil.copy(given.folder.path / "checkpoint_final.pth", tmp_path / "given.pth")
    trainer: Any = both.trainer(QuickAdapter, fold=1)
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(final))
    begun: dict[str, Any] = {}

    class StopError(Exception):
        pass

    def stop() -> None:
        begun.update({name: tensor.clone() for name, tensor in trainer.network.state_dict().items()})
        raise StopError

    trainer.on_train_start = stop
    with pytest.raises(StopError):
        trainer.run_training()
    for name, tensor in read_checkpoint(final)["network_weights"].items():
        torch.testing.assert_close(begun[name], tensor, rtol=0, atol=0)
