"""What the trainings of the embedded weights share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pseudo_labeling.embedded.models import build_embedded_clip
from tests.helpers.paths import PROJECT
from tools.embedded.training import _AVERAGE_DECAY, _running_average


def test_average_follows_the_weights_slowly() -> None:
    layer = nn.Linear(3, 2, bias=False)
    average = AveragedModel(layer, avg_fn=_running_average, use_buffers=True)
    average.update_parameters(layer)  # the first call copies
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update_parameters(layer)
    torch.testing.assert_close(average.module.weight, start + 1 - _AVERAGE_DECAY)


def test_average_of_a_clip_still_answers() -> None:
    """Its attention mask is a buffer with -inf, its batch norms count in integers."""
    model = build_embedded_clip().eval()
    average = AveragedModel(model, avg_fn=_running_average, use_buffers=True)
    for _ in range(2):
        average.update_parameters(model)
    ids = torch.ones(1, model.context_length, dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(average.module.eval().encode_text(ids), model.encode_text(ids))


@pytest.mark.slow
@pytest.mark.parametrize(("script", "name", "phantoms"), [("train_clip", "clip", 64), ("train_unet", "unet", 8)])
def test_training_command_logs_finite_metrics_and_exports(
    script: str, name: str, phantoms: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", f"tools.embedded.{script}", "--pool", str(tmp_path / "pool")]
    command += ["--phantoms", str(phantoms), "--minutes", "0.1", "-o", str(tmp_path / "out")]
    subprocess.run(command, check=True, cwd=PROJECT)
    last = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] > 0
    if name == "clip":
        assert last["auc"] != last["auc_shuffled_pixels"], "a model whose answers are NaN ranks by order alone"
    else:
        assert 0 <= last["dice_16"] <= 1
    weights = load_file(tmp_path / "out" / f"{name}.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
