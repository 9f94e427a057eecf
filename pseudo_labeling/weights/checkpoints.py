"""Tensors out of checkpoint files, never running anything a file holds.

Plain checkpoints go through `torch.load(weights_only=True)`, with stand-ins for what training files keep beside the
weights; safetensors go through their own library. OpenAI's CLIP is a TorchScript archive, which is read as one.
"""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dataset_conversion.errors import UserError, explain
from pseudo_labeling.weights.beside_weights import StandIn, class_name, refusal, stand_ins
from pseudo_labeling.weights.torchscript import is_torchscript, read_torchscript

# entries under which training files keep the weights; one may lie in another
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "checkpoint",
)
DEEPEST = 4  # a damaged file may hold itself
# names under which a model lies in the one that was trained, and what data-parallel and compiled training put before it
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "sam.", "sam_model.", "clip.", "clip_model.")
_INFIXES = re.compile(r"(?<=\.)(?:module|_orig_mod)\.")  # the same where a part of the model was wrapped


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the named tensors of a checkpoint, recognised by content and not by file name.

    Args:
        path: safetensors, a `.pth`/`.pt` written by `torch.save` (a state dict, or a training file that has one under
            one of `WRAPPERS`), or a TorchScript archive.

    Returns:
        Name to tensor, on the CPU, without what training put before the names (`PREFIXES`).

    Raises:
        UserError: the file is missing, truncated, no checkpoint, holds pickled code or a model instead of its
            weights, or several models.
    """
    named: list[Any] = []
    try:
        if _is_safetensors(path):
            content: Any = load_file(path)
        elif is_torchscript(path):
            content = read_torchscript(path)
        else:
            named = stand_ins(path)
            with warnings.catch_warnings(), torch.serialization.safe_globals(named):
                warnings.simplefilter("ignore")  # our one line says it all
                content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such weight file") from error
    except OSError as error:
        raise UserError(explain(error, path)) from error
    except Exception as error:  # a damaged file fails in as many ways as there are parsers
        code = _pickled_code(str(error))
        if code:
            raise refusal(path, code) from error
        if named and "Can only" in str(error):
            raise UserError(
                f"{path}: holds objects beside the weights that cannot be skipped (e.g. {class_name(named[0])}); "
                "save model.state_dict() alone"
            ) from error
        raise UserError(
            f"{path}: truncated, damaged or no checkpoint ({_first_line(error)}); get the file again"
        ) from error
    tensors = _weights(content)
    if not tensors:
        whole = content if isinstance(content, StandIn) else _model_itself(content)
        if whole is not None:
            raise refusal(path, class_name(type(whole)))
        keys = [" ".join(str(key).split())[:40] for key in content] if isinstance(content, dict) else []
        held = f", but {', '.join(keys[:5])}" if keys else ""
        raise UserError(f"{path}: holds no state dict (names with tensors){held}; save model.state_dict()")
    return _plain_names(tensors, path)


def _weights(content: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """The named tensors of a checkpoint, in one wrapper or in several; empty where there are none."""
    if not isinstance(content, dict) or depth > DEEPEST:
        return {}
    for wrapper in WRAPPERS:  # first, since there may be tensors beside them, e.g. the loss
        if found := _weights(content.get(wrapper), depth + 1):
            return found
    return {name: each for name, each in content.items() if isinstance(name, str) and isinstance(each, torch.Tensor)}


def _model_itself(content: Any) -> StandIn | None:
    """A model that was saved whole where its weights should be."""
    found = [content.get(wrapper) for wrapper in WRAPPERS] if isinstance(content, dict) else []
    return next((each for each in found if isinstance(each, StandIn)), None)


def _plain_names(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The names that the model itself has; what was trained beside it, e.g. a loss with weights, is left out."""
    while present := [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)]:
        if len(present) > 1:
            raise UserError(
                f"{path}: holds several models ({', '.join(present)}); save the state dict of the one you want"
            )
        tensors = {name.removeprefix(present[0]): each for name, each in tensors.items() if name.startswith(present[0])}
    return {_INFIXES.sub("", name): each for name, each in tensors.items()}


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size


def _pickled_code(message: str) -> str | None:
    """What `torch.load(weights_only=True)` would have had to call, from its error."""
    match = re.search(r"(?:GLOBAL|[Uu]nsupported class) `?([\w.]+)", message)
    return match.group(1) if match else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    unhelpful = lines[0].startswith("Weights only load failed")  # torch explains at length how to be unsafe
    return "not in torch's format" if unhelpful else lines[0][:100]
