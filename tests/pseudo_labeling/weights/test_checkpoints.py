"""Checkpoints of every kind give their tensors; nothing in them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.weights.checkpoints import read_state_dict


class Toy(nn.Module):
    """A module with all that a scripted model may hold: half precision, views, buffers, empty and shared tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.scale = nn.Parameter(torch.randn(5, 2).half().t())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        table = torch.randn(6)
        self.register_buffer("head", table[:2])
        self.register_buffer("tail", table[2:])
        self.nothing = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(inputs)
        return result


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))
    return message


# ------------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save_is_read(toy: Toy, tmp_path: Path, zipped: bool) -> None:
    torch.save(toy.state_dict(), tmp_path / "toy.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_state_dict(tmp_path / "toy.pth"), toy.state_dict())


def test_safetensors_are_known_by_content(toy: Toy, tmp_path: Path) -> None:
    state = {name: tensor.contiguous().clone() for name, tensor in toy.state_dict().items()}
    save_file(state, tmp_path / "toy.pth")
    assert_same(read_state_dict(tmp_path / "toy.pth"), state)


@pytest.mark.parametrize(
    "make", [lambda toy: torch.jit.script(toy.layers), lambda toy: torch.jit.trace(toy, torch.ones(1, 3))]
)
def test_torchscript_gives_what_torch_would_read(toy: Toy, tmp_path: Path, make: Callable[[Toy], Any]) -> None:
    torch.jit.save(make(toy), tmp_path / "toy.pt")
    assert_same(read_state_dict(tmp_path / "toy.pt"), torch.jit.load(tmp_path / "toy.pt").state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_training_checkpoints_are_unwrapped(toy: Toy, tmp_path: Path, wrapper: str) -> None:
    state = {f"module.{name}": tensor for name, tensor in toy.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "toy.pth")
    assert_same(read_state_dict(tmp_path / "toy.pth"), toy.state_dict())


# --------------------------------------------------------------------------------------------------- what is refused


class Touch:
    """Unpickled by an ordinary unpickler, makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_in_a_checkpoint_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"weight": torch.ones(2), "code": Touch(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert f"pickled code ({os.system.__module__}.system)" in refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the trap is real
    assert marker.exists()


def test_bare_pickle_does_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Touch(marker)))
    refusal(path)
    assert not marker.exists()


def test_model_saved_whole_is_refused(toy: Toy, tmp_path: Path) -> None:
    torch.save(toy, tmp_path / "toy.pth")
    assert "Toy), which is never run; save model.state_dict()" in refusal(tmp_path / "toy.pth")


def archive_with(data: bytes, path: Path, record: bytes = b"") -> Path:
    """A TorchScript archive in form, with a `data.pkl` of our own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/data.pkl", data)
        archive.writestr("toy/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("toy/data/0", record)
    return path


def test_pickled_code_in_a_torchscript_archive_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    trap = pickle.dumps(Touch(marker), protocol=2)
    path = archive_with(trap, tmp_path / "evil.pt")
    assert f"pickled code ({os.system.__module__}.system)" in refusal(path)
    assert not marker.exists()
    pickle.loads(trap)
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "torch.serialization load",
        "torch._utils _rebuild_parameter",
        "torch load",
        "torch._utils _rebuild_tensor_v2.__globals__",
        "__torch___evil run",
        "functools partial",
    ],
)
def test_torchscript_archive_may_name_nothing_else(tmp_path: Path, name: str) -> None:
    module, attribute = name.split(" ")
    path = archive_with(f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"), tmp_path / "evil.pt")
    assert f"({module}.{attribute})" in refusal(path)


def test_code_of_a_torchscript_archive_is_not_compiled(toy: Toy, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(toy.layers), tmp_path / "toy.pt")
    with zipfile.ZipFile(tmp_path / "toy.pt") as source, zipfile.ZipFile(tmp_path / "odd.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, b"no program" if name.endswith(".py") else source.read(name))
    with pytest.raises(RuntimeError):
        torch.jit.load(tmp_path / "odd.pt")
    assert_same(read_state_dict(tmp_path / "odd.pt"), toy.layers.state_dict())


def module_pickle(
    elements: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0"
) -> bytes:
    """`data.pkl` of a module with one float32 tensor `w`, written by hand."""
    parts = [b"\x80\x02c__torch__\nToy\n)\x81}U\x01wctorch._utils\n_rebuild_tensor_v2\n("]
    parts.append(b"(U\x07storagectorch\nFloatStorage\nU" + bytes([len(key)]) + key.encode() + b"U\x03cpu")
    parts.append(b"J" + struct.pack("<i", elements) + b"tQ")
    parts.append(b"J" + struct.pack("<i", offset))
    for numbers in (size, stride):
        parts.append(b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t")
    parts.append(b"\x89ccollections\nOrderedDict\n)RtRsb.")
    return b"".join(parts)


def test_handwritten_archive_is_read(tmp_path: Path) -> None:
    values = torch.arange(6, dtype=torch.float32)
    path = archive_with(module_pickle(6, (2, 3), (3, 1)), tmp_path / "toy.pt", values.numpy().tobytes())
    assert_same(read_state_dict(path), {"w": values.view(2, 3)})


@pytest.mark.parametrize(
    "data",
    [
        module_pickle(6, (7,), (1,)),
        module_pickle(6, (2,), (1,), offset=5),
        module_pickle(6, (2,), (1,), offset=-1),
        module_pickle(6, (2,), (-1,), offset=3),
        module_pickle(6, (2,), (1,), key="../x"),
        pickle.dumps({"w": 1}, protocol=2),
        b"",
    ],
    ids=["size", "end", "before", "backwards", "record", "no module", "empty"],
)
def test_torchscript_tensor_beyond_its_bytes_is_refused(tmp_path: Path, data: bytes) -> None:
    path = archive_with(data, tmp_path / "toy.pt", torch.zeros(6).numpy().tobytes())
    assert "truncated, damaged or no checkpoint" in refusal(path)


def truncated(content: bytes, path: Path) -> Path:
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def test_truncated_files_are_refused(toy: Toy, tmp_path: Path) -> None:
    for name, zipped in (("new.pth", True), ("old.pth", False)):
        buffer = io.BytesIO()
        torch.save(toy.state_dict(), buffer, _use_new_zipfile_serialization=zipped)
        assert "truncated" in refusal(truncated(buffer.getvalue(), tmp_path / name))
    torch.jit.save(torch.jit.script(toy.layers), tmp_path / "toy.pt")
    assert "truncated" in refusal(truncated((tmp_path / "toy.pt").read_bytes(), tmp_path / "short.pt"))
    save_file({"w": torch.ones(1000)}, tmp_path / "toy.safetensors")
    assert "truncated" in refusal(truncated((tmp_path / "toy.safetensors").read_bytes(), tmp_path / "s.safetensors"))


@pytest.mark.parametrize("content", [b"", b"x", b"<html>please log in</html>", b"\x89PNG\r\n\x1a\n" * 20])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.pth").write_bytes(content)
    assert "no checkpoint" in refusal(tmp_path / "odd.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {1: torch.ones(1)}, torch.ones(3)])
def test_checkpoint_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    assert "no state dict" in refusal(tmp_path / "odd.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such weight file" in refusal(tmp_path / "nowhere.pth")
