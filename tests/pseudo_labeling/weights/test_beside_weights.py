"""SAM and CLIP out of the files that training leaves, in the layouts of public code; nothing in them is ever run."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.weights.checkpoints import read_state_dict
from pseudo_labeling.weights.models import load_clip, load_sam

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sam() -> State:
    return dict(load_sam("embedded").model.state_dict())


@pytest.fixture(scope="module")
def clip() -> State:
    return dict(load_clip("embedded").model.state_dict())


def named(state: State, prefix: str) -> State:
    return OrderedDict((f"{prefix}{name}", tensor) for name, tensor in state.items())


def trained(state: State) -> torch.optim.Optimizer:
    """An optimizer with a state, as after a step."""
    weight = nn.Parameter(next(tensor for tensor in state.values() if tensor.is_floating_point()).clone())
    optimizer = torch.optim.AdamW([weight], lr=1e-4)
    weight.sum().backward()
    optimizer.step()
    return optimizer


class Config:
    """A training script's own class."""

    def __init__(self) -> None:
        self.lr = 1e-4


class Slices(torch.utils.data.Dataset[int]):
    """A training script's own data set, which torch-em keeps in its checkpoints."""

    def __init__(self) -> None:
        self.root, self.shape, self.seen = pathlib.Path("/data"), np.array([512, 512]), {np.float32(0.5)}


def medsam(state: State) -> Any:
    optimizer = trained(state).state_dict()
    return {"model": state, "optimizer": optimizer, "epoch": 7, "loss": np.float64(0.25), "best_loss": np.float32(0.2)}


def medsam_several_gpus(state: State) -> Any:
    return {"model": named(state, "module."), "epoch": np.int64(3), "date": datetime.datetime(2024, 1, 1)}


def sam_med2d(state: State) -> Any:
    return {"model": state, "optimizer": trained(state)}  # the optimizer itself, not its state


def micro_sam(state: State) -> Any:
    init = {"train_dataset": Slices(), "train_loader_kwargs": {"batch_size": 2}, "loss_class": "x.Loss", "model": None}
    return {
        "iteration": 10, "epoch": 1, "best_metric": np.float64(0.1), "current_metric": np.float32(0.1),
        "model_state": named(state, "sam."), "decoder_state": {"out.weight": torch.ones(2)},
        "optimizer_state": trained(state).state_dict(), "init": init, "timestamp": "01-01-2024",
    }  # fmt: skip


def micro_sam_compiled(state: State) -> Any:
    return {"model_state": named(state, "_orig_mod.sam."), "scheduler_state": {"best": np.float64(1)}}


def lightning(state: State) -> Any:
    weights = named(state, "model.") | {"loss.weight": torch.ones(3)}
    return {"epoch": 1, "pytorch-lightning_version": "2.2", "state_dict": weights, "hyper_parameters": Config()}


def script(state: State) -> Any:
    arguments = argparse.Namespace(lr=1e-4, out=pathlib.PosixPath("/tmp"), seeds=np.arange(3), config=Config())
    history: Any = collections.defaultdict(list, {"dice": [np.float64(0.5)]})
    return {"args": arguments, "history": history, "loss": torch.tensor(0.5), "model_state_dict": state}


def nested(state: State) -> Any:
    return {"checkpoint": {"epoch": 2, "model": {"state_dict": named(state, "module._orig_mod.")}}}


def part_compiled(state: State) -> Any:
    return {"model": {name.replace("image_encoder.", "image_encoder._orig_mod."): t for name, t in state.items()}}


def open_clip(state: State) -> Any:
    weights = named(state, "module.")
    scaler = {"scale": 65536.0, "growth_factor": 2.0}
    return {
        "epoch": 5,
        "name": "run",
        "state_dict": weights,
        "optimizer": trained(state).state_dict(),
        "scaler": scaler,
    }


LAYOUTS = (
    medsam, medsam_several_gpus, sam_med2d, micro_sam, micro_sam_compiled, lightning, script, nested, part_compiled,
    open_clip,
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sam_loads_from_training_files(sam: State, tmp_path: Path, layout: Callable[[State], Any]) -> None:
    torch.save(layout(sam), tmp_path / "best.pt")
    found = load_sam(str(tmp_path / "best.pt")).model.state_dict()
    assert list(found) == list(sam)
    assert all(torch.equal(found[name], sam[name]) for name in sam)


@pytest.mark.parametrize("layout", [open_clip, lightning, script])
def test_clip_loads_from_training_files(clip: State, tmp_path: Path, layout: Callable[[State], Any]) -> None:
    torch.save(layout(clip), tmp_path / "epoch_5.pt")
    found = load_clip(str(tmp_path / "epoch_5.pt")).model.state_dict()
    assert all(torch.equal(found[name], clip[name]) for name in clip)


SMALL = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}


@pytest.mark.parametrize("layout", [medsam, sam_med2d, script, micro_sam])
def test_the_older_format_of_torch_is_read_too(tmp_path: Path, layout: Callable[[State], Any]) -> None:
    torch.save(layout(SMALL), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read_state_dict(tmp_path / "old.pth")
    assert found.keys() == SMALL.keys()
    assert all(torch.equal(found[name], SMALL[name]) for name in SMALL)


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_numbers_of_numpy_1_and_2_are_read(tmp_path: Path, package: bytes) -> None:
    """The function that makes a number lies in another place since NumPy 2."""
    torch.save({"model": SMALL, "loss": np.float64(0.5), "counts": np.arange(3)}, tmp_path / "here.pth")
    with zipfile.ZipFile(tmp_path / "here.pth") as source, zipfile.ZipFile(tmp_path / "there.pth", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", package + b".")
                assert content.count(b"c" + package + b".multiarray\n") == 2
            target.writestr(name, content)
    assert read_state_dict(tmp_path / "there.pth").keys() == SMALL.keys()


# --------------------------------------------------------------------------------------------------- what is refused


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class Trap:
    """Unpickled by an ordinary unpickler, calls something."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def write_marker(marker: str) -> None:
    """What a file could have a package of somebody else do."""
    Path(marker).write_text("ran")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_an_attack_would_call_is_refused_beside_good_weights(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "ran"
    for call, arguments, name in (
        (subprocess.call, (["touch", str(marker)],), ".call"),  # a pickle calls the module by its name of Python 2
        (eval, (f"open({str(marker)!r}, 'w')",), "eval"),
        (exec, (f"open({str(marker)!r}, 'w')",), "exec"),
        (getattr, (1, "real"), "getattr"),
        (torch.load, (str(marker),), "torch.serialization.load"),
        (torch.hub.load_state_dict_from_url, ("file:///x",), "torch.hub.load_state_dict_from_url"),
    ):
        torch.save(
            medsam(SMALL) | {"extra": Trap(call, *arguments)},
            tmp_path / "evil.pth",
            _use_new_zipfile_serialization=zipped,
        )
        message = refusal(tmp_path / "evil.pth")
        assert "holds pickled code (" in message
        assert f"{name})" in message
        assert not marker.exists()


def test_functions_of_other_packages_are_never_called(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"model": SMALL, "args": Trap(write_marker, str(marker))}, tmp_path / "evil.pth")
    assert read_state_dict(tmp_path / "evil.pth").keys() == SMALL.keys()
    assert not marker.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the trap is real
    assert marker.exists()


def test_what_a_file_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitting_duck.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"model": SMALL, "config": Config()}, tmp_path / "here.pth")
    with zipfile.ZipFile(tmp_path / "here.pth") as source, zipfile.ZipFile(tmp_path / "odd.pth", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(f"c{Config.__module__}\nConfig\n".encode(), b"csitting_duck\nConfig\n")
                assert b"sitting_duck" in content
            target.writestr(name, content)
    assert read_state_dict(tmp_path / "odd.pth").keys() == SMALL.keys()
    assert not (tmp_path / "ran").exists()


def test_stand_ins_are_gone_after_reading(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # a set inside torch: its order changes
    torch.save(script(SMALL), tmp_path / "toy.pth")
    read_state_dict(tmp_path / "toy.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(tmp_path / "toy.pth", weights_only=True)


def test_a_model_saved_whole_is_named(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 3), "epoch": 1}, tmp_path / "toy.pth")
    message = refusal(tmp_path / "toy.pth")
    assert "(torch.nn.modules.linear.Linear), which is never run; save model.state_dict()" in message


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch\n1": 1}
    content["model"] = content
    torch.save(content, tmp_path / "toy.pth")
    assert "holds no state dict (names with tensors), but epoch 1, model;" in refusal(tmp_path / "toy.pth")


def test_two_models_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    torch.save({"state_dict": named(SMALL, "model.") | named(SMALL, "sam.")}, tmp_path / "toy.pth")
    assert "several models (model., sam.); save the state dict of the one you want" in refusal(tmp_path / "toy.pth")


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "optimizer": {"lr": 1}, "student": {"w": [1]}}, tmp_path / "toy.pth")
    message = refusal(tmp_path / "toy.pth")
    assert "holds no state dict (names with tensors), but epoch, optimizer, student; save" in message
