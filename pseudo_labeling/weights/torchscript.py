"""Tensors out of a TorchScript archive, picked out without opening it as a program.

`torch.jit.load` would run what is in it, and `torch.load` refuses it.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pseudo_labeling.weights.beside_weights import refusal

STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, by its content."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Names and tensors of the module in an archive, on the CPU.

    Raises:
        UserError: the archive names something that such an archive does not need.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        tree = _ArchiveUnpickler(archive.read(f"{root}data.pkl"), path).load()
        if not isinstance(tree, _Inert):
            raise ValueError("the archive holds no module")
        storages: dict[str, torch.Tensor] = {}
        return {name: _tensor(record, archive, root, storages) for name, record in _records(tree, "")}


class _TensorRecord(NamedTuple):
    """A tensor as an archive describes it, not yet read."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Rebuild:
    """Stands in for torch's tensor builder: notes what to build."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _TensorRecord:
        return _TensorRecord(storage, offset, size, stride)


class _Inert:
    """Stands in for every class and helper function of an archive: keeps its attributes, does nothing."""

    __slots__ = ("state",)

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArchiveUnpickler(pickle.Unpickler):
    """Rebuilds the tree of modules out of inert parts; any name beyond those a TorchScript archive needs is refused."""

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__.") or module == "torch.jit._pickle":
            return _Inert
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuild()
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise refusal(self.path, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid  # ("storage", dtype, key, device, number of elements)


def _records(module: _Inert, prefix: str) -> Iterator[tuple[str, _TensorRecord]]:
    """Names and tensors in the order and with the names that `state_dict` gives them."""
    state = getattr(module, "state", None)
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, _TensorRecord):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Inert):
            yield from _records(value, f"{prefix}{name}.")


def _tensor(
    record: _TensorRecord, archive: zipfile.ZipFile, root: str, storages: dict[str, torch.Tensor]
) -> torch.Tensor:
    _, dtype, key, _, _ = record.storage
    if key not in storages:
        data = bytearray(archive.read(f"{root}data/{key}"))
        storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return storages[key].as_strided(record.size, record.stride, record.offset)  # torch checks the bounds
