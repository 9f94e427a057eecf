"""Tensors out of checkpoint files, never running anything a file holds.

Plain checkpoints go through `torch.load(weights_only=True)`, safetensors through their own library. OpenAI's CLIP is a
TorchScript archive: `torch.load` refuses it, and opening it as a program (`torch.jit.load`) would run what is in it, so
its tensors are picked out of the archive here.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from pseudo_labeling.errors import PseudoLabelError

WRAPPERS = ("state_dict", "model")  # training checkpoints keep the weights under one of these
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


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the named tensors of a checkpoint, recognised by content and not by file name.

    Args:
        path: safetensors, a `.pth`/`.pt` written by `torch.save` (a state dict, or one under `state_dict` or `model`),
            or a TorchScript archive.

    Returns:
        Name to tensor, on the CPU, with the `module.` that data-parallel training puts before every name removed.

    Raises:
        PseudoLabelError: the file is missing, truncated, no checkpoint, or holds pickled code.
    """
    try:
        if _is_safetensors(path):
            content: Any = load_file(path)
        elif _is_torchscript(path):
            content = _read_torchscript(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # our one line says it all
                content = torch.load(path, map_location="cpu", weights_only=True)
    except PseudoLabelError:
        raise
    except FileNotFoundError as error:
        raise PseudoLabelError(f"{path}: no such weight file") from error
    except OSError as error:
        raise PseudoLabelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file fails in as many ways as there are parsers
        code = _pickled_code(str(error))
        if code:
            raise _refusal(path, code) from error
        raise PseudoLabelError(
            f"{path}: truncated, damaged or no checkpoint ({_first_line(error)}); get the file again"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(_is_entry(item) for item in content.items()):
        raise PseudoLabelError(f"{path}: holds no state dict (names with tensors); save model.state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refusal(path: Path, code: str) -> PseudoLabelError:
    return PseudoLabelError(f"{path}: holds pickled code ({code}), which is never run; save model.state_dict() alone")


def _pickled_code(message: str) -> str | None:
    """What `torch.load(weights_only=True)` would have had to call, from its error."""
    match = re.search(r"(?:GLOBAL|[Uu]nsupported class) `?([\w.]+\.[\w.]+)", message)
    return match.group(1) if match else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    unhelpful = lines[0].startswith("Weights only load failed")  # torch explains at length how to be unsafe
    return "not in torch's format" if unhelpful else lines[0][:100]


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
        raise _refusal(self.path, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid  # ("storage", dtype, key, device, number of elements)


def _read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        tree = _ArchiveUnpickler(archive.read(f"{root}data.pkl"), path).load()
        if not isinstance(tree, _Inert):
            raise ValueError("the archive holds no module")
        storages: dict[str, torch.Tensor] = {}
        return {name: _tensor(record, archive, root, storages) for name, record in _records(tree, "")}


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
