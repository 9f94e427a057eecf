"""UM-SAM's trainer on a tiny dataset: the loss is the sum it says, the teacher stays as it is, the network stock."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.distillation import contrast_loss, feature_loss, prototypes
from nnunetv2_clisc.training.distillation_trainer import (
    DistillationTrainer,
    DistillationTrainer_small_noContrast,
    DistillationTrainer_small_noFeature,
    DistillationTrainer_small_plain,
    Teacher,
    eight_bit,
)
from pseudo_labeling.weights.models import load_sam
from tests.helpers.tiny_nnunet import CLISC_ENTRY, QuickDistillation, TinyDataset, python

SETTINGS = {"settings": {"distillation": {"feature": 0.5, "contrast": 0.25, "temperature": 0.7}}}


class Plain(DistillationTrainer_small_plain):
    network_settings = QuickDistillation.network_settings
    cpu_bfloat16 = False


class NoFeature(DistillationTrainer_small_noFeature):
    network_settings = QuickDistillation.network_settings
    cpu_bfloat16 = False


class NoContrast(DistillationTrainer_small_noContrast):
    network_settings = QuickDistillation.network_settings
    cpu_bfloat16 = False


def begun(tiny: TinyDataset, kind: type[DistillationTrainer] = QuickDistillation) -> Any:
    torch.manual_seed(0)
    trainer = tiny.trainer(kind, configuration="2d", clisc=CLISC_ENTRY | SETTINGS)
    trainer.initialize()
    return trainer


def batch(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    data = torch.from_numpy(rng.normal(size=(4, 1, 32, 32)).astype(np.float32))
    target = torch.from_numpy((rng.random((4, 1, 32, 32)) > 0.7).astype(np.float32))
    return {"data": data, "target": [target, target[:, :, ::2, ::2], target[:, :, ::4, ::4]][:2]}


@pytest.mark.parametrize(
    ("kind", "feature", "contrast"),
    [(QuickDistillation, 0.5, 0.25), (NoFeature, 0.0, 0.25), (NoContrast, 0.5, 0.0), (Plain, 0.0, 0.0)],
)
def test_loss_is_the_weighted_sum_of_the_datasets_settings(
    kind: type[DistillationTrainer], feature: float, contrast: float, tiny: TinyDataset
) -> None:
    trainer, step = begun(tiny, kind), batch()
    assert (trainer.teacher is None) == (kind is Plain)
    trainer.network.eval()
    with torch.no_grad():
        skips = trainer.network.encoder(step["data"])
        output = trainer.network.decoder(skips)
        expected = trainer.loss.labels(output, step["target"])
        probability = output[0].softmax(1)
        student = prototypes(skips[-1], probability)
        teacher = prototypes(Teacher(load_sam("embedded").model, [0])(step["data"]), probability)
        expected = expected + feature * feature_loss(student, teacher)
        expected = expected + contrast * contrast_loss(student, teacher, 0.7)
    found = trainer.validation_step(step)["loss"]
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_epoch_grows_with_the_slices(tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(QuickDistillation):
        min_iterations = 1
        share_of_slices = 0.5

    trainer = begun(tiny, Counting)
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: None)
    trainer._train_round(1)
    train, _ = trainer.do_split()
    files = [Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations" / f"{case}.nii.gz" for case in train]
    slices = sum(sitk.ReadImage(str(file)).GetSize()[2] for file in files)
    assert trainer.num_iterations_per_epoch == math.ceil(math.ceil(slices / 2) / trainer.batch_size) > 3
    Counting.share_of_slices = 0.0
    trainer._train_round(1)
    assert trainer.num_iterations_per_epoch == math.ceil(len(train) / trainer.batch_size)


def test_student_learns_and_the_teacher_does_not(tiny: TinyDataset) -> None:
    trainer, step = begun(tiny), batch()
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {5e-4}  # paper 3.1
    sam = trainer.teacher.sam
    before = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    first = trainer.network.encoder.stages[0][0].convs[0].conv.weight
    kept = first.detach().clone()
    trainer.train_step(step)
    assert not torch.equal(first, kept)
    assert all(parameter.grad is None for parameter in sam.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in sam.state_dict().items())
    gradient = torch.autograd.grad(
        feature_loss(
            prototypes(trainer.network.encoder(step["data"])[-1], torch.full((4, 2, 32, 32), 0.5)),
            prototypes(trainer.loss.teacher, torch.full((4, 2, 32, 32), 0.5)),
        ),
        first,
    )[0]
    assert gradient.abs().max() > 0


def test_compiled_network_has_the_same_loss(tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = begun(tiny)
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda _: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = begun(tiny)
    compiled.network._orig_mod.load_state_dict(plain.network.state_dict())
    for seed in range(2):  # the second after a step of both
        losses = [float(trainer.train_step(batch(seed))["loss"]) for trainer in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert compiled.loss.bottleneck is not None


def test_trained_network_is_a_stock_u_net(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(QuickDistillation, configuration="2d")
    trainer.run_training()
    assert json.loads((trainer.folder.path / "clisc_state.json").read_text())["stage"] == "done"
    weights = torch.load(trainer.folder.final(1), weights_only=False, map_location="cpu")["network_weights"]
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    stock = nnUNetTrainer.build_network_architecture(plans, configuration, 1, 2, enable_deep_supervision=True)
    assert weights.keys() == stock.state_dict().keys()
    assert not [name for name in weights if "image_encoder" in name]


def test_two_ranks_train_one_network(tiny: TinyDataset) -> None:
    result = python(f"from tests.helpers.two_ranks import distilling; distilling({str(tiny.root)!r})")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    folder = tiny.trainer(QuickDistillation, configuration="2d").folder.path
    found = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["taught"]
    assert found[1]["taught"]
    assert np.isfinite(found[0]["losses"]).all()


def test_what_does_not_fit_is_said_before_training(tiny: TinyDataset) -> None:
    with pytest.raises(
        UserError, match=r"its network has 256 features.*embedded.* 128; train with DistillationTrainer_sm"
    ):
        tiny.trainer(DistillationTrainer, configuration="2d").initialize()
    with pytest.raises(SystemExit):
        tiny.trainer(QuickDistillation, configuration="3d_fullres")


def test_patches_become_what_sam_expects() -> None:
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.normal(size=(2, 1, 40, 20)).astype(np.float32))
    shown = eight_bit(patches)
    assert shown.min() == 0
    assert shown.max() == 255
    assert torch.equal(shown, shown.round())
    assert torch.equal(eight_bit(patches * 7 + 3), shown)  # whatever nnU-Net's normalisation made of them
    assert torch.isfinite(eight_bit(torch.zeros(1, 1, 8, 8))).all()
    features = Teacher(load_sam("embedded").model, [0])(patches)
    assert features.shape == (2, 128, 32, 16)
