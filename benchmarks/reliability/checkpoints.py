"""Damaged weights and checkpoints, some with code hidden in them that must never run."""

from __future__ import annotations

import copy
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from benchmarks.reliability.damage import Damaged, Wrong
from benchmarks.reliability.mutations import Rng, choice, damaged_bytes
from nnunetv2_clisc.training.checkpoints import read_checkpoint
from pseudo_labeling.embedded.models import build_embedded_clip, build_embedded_sam
from pseudo_labeling.run.classifier_files import load_state
from pseudo_labeling.weights.checkpoints import read_state_dict
from pseudo_labeling.weights.models import load_clip, load_sam


def weights(rng: Rng, folder: Path) -> Damaged:
    """A small state dict through the reader of all weight files."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    state: dict[str, Any] = {f"layer{i}.weight": torch.randn(6, 5, generator=generator) for i in range(4)}
    state["steps"] = torch.tensor(7)
    safetensors = bool(rng.random() < 0.4)
    path = folder / choice(rng, ("model.pt", "model.pth", "model.safetensors"))
    what, data, marker = damage_checkpoint(rng, folder, state, save if safetensors else saved)
    path.write_bytes(data)

    def read() -> str:
        found = read_state_dict(path)
        for name, tensor in found.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise Wrong(f"{name!r} is {type(tensor).__name__}")
        return "read"

    return Damaged(f"{'safetensors' if safetensors else 'torch'}: {what}", path, read, marker=marker)


def network(rng: Rng, folder: Path) -> Damaged:
    """A whole CLIP or SAM, built from the file."""
    kind = choice(rng, ("clip", "sam"))
    state = (build_embedded_clip() if kind == "clip" else build_embedded_sam()).state_dict()
    path = folder / f"{kind}.pt"
    what, data, marker = damage_checkpoint(rng, folder, state, choice(rng, (save_contiguous, saved)))
    path.write_bytes(data)

    def read() -> str:
        model = load_clip(str(path)).model if kind == "clip" else load_sam(str(path)).model
        bad = [n for n, t in model.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise Wrong(f"loaded with values that are not finite in {bad[0]}")
        if {n: t.shape for n, t in model.state_dict().items()} != {n: t.shape for n, t in state.items()}:
            raise Wrong("loaded with other shapes")
        return "loaded"

    return Damaged(f"{kind}: {what}", path, read, marker=marker)


def training_checkpoint(rng: Rng, folder: Path) -> Damaged:
    """A checkpoint of a trainer, or the state of an interrupted classifier training."""
    if rng.random() < 0.6:
        state: dict[str, Any] = {
            "network_weights": {f"layer{i}.weight": torch.randn(4, 3) for i in range(3)},
            "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(4, 3)}}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"train_losses": [0.5, 0.25]},
            "_best_ema": 0.5,
            "current_epoch": 2,
            "init_args": {"configuration": "3d_fullres", "fold": 0},
            "trainer_name": "CLISCTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        path = folder / "checkpoint_latest.pth"
        what, data, marker = damage_checkpoint(rng, folder, state, saved)

        def read() -> str:
            found = read_checkpoint(path)
            if not isinstance(found["trainer_name"], str) or not isinstance(found["network_weights"], dict):
                raise Wrong("accepted without a name of the trainer or weights")
            return "read"
    else:
        model = {"fc.weight": torch.randn(2, 3), "fc.bias": torch.zeros(2)}
        inner = {"epoch": 1, "best_loss": 0.5, "best_epoch": 1, "history": [], "model": model, "optimizer": {},
                 "best_model": model}  # fmt: skip
        path = folder / "raw_partial.pt"
        state = {"key": "k", "state": inner, "network_weights": model}  # the last only tells what to damage
        what, data, marker = damage_checkpoint(rng, folder, state, _without_weights)

        def read() -> str:
            found = load_state(path, "k")
            if found is not None and not isinstance(found.epoch, int):
                raise Wrong(f"epoch is {found.epoch!r}")
            return "begun anew" if found is None else "resumed"

    path.write_bytes(data)
    return Damaged(what, path, read, marker=marker)


def damage_checkpoint(
    rng: Rng, folder: Path, state: dict[str, Any], make: Callable[[Any], bytes]
) -> tuple[str, bytes, Path]:
    """Damage a checkpoint; also returns the file that hidden code would make."""
    marker = folder / "code_has_run"
    what, data = damaged_checkpoint(rng, state, make, str(marker))
    return what, data, marker


def save_contiguous(state: dict[str, torch.Tensor]) -> bytes:
    """Safetensors of any state dict."""
    return save({name: tensor.contiguous().clone() for name, tensor in state.items()})


def _without_weights(state: dict[str, Any]) -> bytes:
    return saved({key: value for key, value in state.items() if key != "network_weights"})


class Payload:
    """Unpickled by an ordinary unpickler, makes a file."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def saved(content: Any, zipped: bool = True) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def damaged_checkpoint(
    rng: Rng, state: dict[str, Any], write: Callable[[Any], bytes], marker: str
) -> tuple[str, bytes]:
    """Damage to the file, to its tensors or to what is around them; or code hidden in it.

    Args:
        rng: all chance.
        state: names with tensors, or a training checkpoint with them in some entry.
        write: makes the file of a content.
        marker: file that hidden code would make.
    """
    kind = choice(rng, ("file", "file", "file", "tensor", "tensor", "names", "shape", "code", "code", "member"))
    if kind == "file":
        return damaged_bytes(rng, write(state))
    state = copy.deepcopy(state)
    weights = state.get("network_weights", state)
    name = choice(rng, [key for key, value in weights.items() if isinstance(value, torch.Tensor)])
    tensor = weights[name]
    if kind == "code":
        return _with_code(rng, state, weights, name, marker)
    if kind == "member":
        return _member_changed(rng, saved(state), marker)
    if kind == "names":
        what = choice(rng, ("left out", "renamed", "added", "module."))
        if what == "left out":
            del weights[name]
        elif what == "renamed":
            weights[f"{name}2"] = weights.pop(name)
        elif what == "added":
            weights["unknown"] = torch.zeros(3)
        else:
            for key in list(weights):
                weights[f"module.{key}"] = weights.pop(key)
        return f"{name} {what}", write(state)
    if kind == "shape":
        changed = choice(rng, (tensor.flatten()[:1], tensor[None], torch.zeros(0), tensor.flatten()))
        weights[name] = changed.clone()
        return f"{name} of shape {tuple(changed.shape)} instead of {tuple(tensor.shape)}", write(state)
    dtype = choice(
        rng, (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8, "nan", "inf")
    )
    if isinstance(dtype, str):
        weights[name] = torch.full_like(tensor, float(dtype)) if tensor.is_floating_point() else tensor
    else:
        weights[name] = tensor.to(dtype)
    return f"{name} as {dtype}", write(state)


def _with_code(rng: Rng, state: Any, weights: Any, name: str, marker: str) -> tuple[str, bytes]:
    where = choice(rng, ("instead of a tensor", "beside the tensors", "alone", "under state_dict", "plain pickle"))
    payload = Payload(marker)
    if where == "alone":
        return f"code {where}", saved(payload, zipped=bool(rng.integers(2)))
    if where == "under state_dict":
        return f"code {where}", saved({"state_dict": payload, **state})
    if where == "plain pickle":
        return f"code in a {where}", pickle.dumps(payload)
    weights[name if where == "instead of a tensor" else "unknown"] = payload
    return f"code {where}", saved(state, zipped=bool(rng.integers(2)))


def _member_changed(rng: Rng, data: bytes, marker: str) -> tuple[str, bytes]:
    """A member of torch's zip archive left out, emptied, damaged or replaced by code."""
    source = zipfile.ZipFile(io.BytesIO(data))
    names = source.namelist()
    name = choice(rng, names)
    what = choice(rng, ("left out", "empty", "damaged", "code", "as TorchScript"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for each in names:
            content = source.read(each)
            if what == "code" and each.endswith("data.pkl"):
                content = pickle.dumps(Payload(marker), protocol=2)
            elif each == name and what == "left out":
                continue
            elif each == name and what in ("empty", "damaged"):
                content = b"" if what == "empty" else damaged_bytes(rng, content)[1]
            target.writestr(each, content)
        if what == "as TorchScript":
            target.writestr(names[0].split("/")[0] + "/constants.pkl", pickle.dumps(Payload(marker), protocol=2))
    return f"archive member {'data.pkl' if what == 'code' else name}: {what}", buffer.getvalue()
