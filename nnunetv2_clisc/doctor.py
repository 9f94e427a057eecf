"""Is this installation fit to work? One line a check, saying what to do where it is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GIB = 2**30
ENOUGH_DISK_GIB = 20  # a BraTS-size dataset: raw, preprocessed and results
TRAINER = "CLISCTrainer"


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'BAD'}  {self.name:<20} {self.detail}"


def checks() -> list[Check]:
    """Run all checks."""
    rows = [_nnunet(), _guarded("trainer", _trainer)]
    rows += [_folder(name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    rows += [_guarded("embedded weights", _embedded), _guarded("published weights", _published)]
    rows += [_guarded("device", _device), _disk()]
    return rows


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check that breaks is a check that failed: the doctor must reach the end of the list."""
    try:
        return check()
    except Exception as error:  # whatever a broken installation throws
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0])


def _nnunet() -> Check:
    try:
        found = version("nnunetv2")
    except PackageNotFoundError:
        return Check("nnU-Net", False, "not installed; pip install 'nnunetv2>=2.8,<3'")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    ok = (2, 8) <= numbers < (3, 0)
    return Check("nnU-Net", ok, f"version {found}" + ("" if ok else "; pip install 'nnunetv2>=2.8,<3'"))


def _trainer() -> Check:
    import contextlib
    import io

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunetv2_clisc.training import trainer

    ours = getattr(trainer, TRAINER)
    folder = Path(trainer.__file__).parents[1] / "ext_trainer"
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints where it searches
        try:
            found = recursive_find_trainer_class_by_name(TRAINER)
        except RuntimeError:  # .pth files are not read, e.g. with `python -S` or in some containers
            more = ":$nnUNet_extTrainer" if os.environ.get("nnUNet_extTrainer") else ""
            cure = f"export nnUNet_extTrainer={folder}{more}"
            return Check("trainer", False, f"nnU-Net does not find {TRAINER}; {cure}")
    if found is not ours:
        file = getattr(sys.modules.get(found.__module__), "__file__", None) or _file_of(found)
        return Check(
            "trainer",
            False,
            f"nnU-Net finds another {TRAINER} in {file}; rename that class, or put {folder} first in nnUNet_extTrainer",
        )
    return Check("trainer", True, f"{TRAINER} found in {found.__module__}")


def _file_of(kind: type) -> str:
    """The file of a class whose module nnU-Net has forgotten again."""
    import inspect

    functions = [value for value in vars(kind).values() if inspect.isfunction(value)]
    return functions[0].__code__.co_filename if functions else kind.__module__


def _folder(name: str) -> Check:
    value = os.environ.get(name)
    if not value:
        return Check(name, False, f"not set; export {name}=/some/folder")
    path = Path(value)
    if not path.is_dir():
        return Check(name, False, f"{path} is no folder; mkdir -p {path}")
    if not os.access(path, os.W_OK):
        return Check(name, False, f"{path} cannot be written to; choose another or change its rights")
    return Check(name, True, str(path))


def _embedded() -> Check:
    from pseudo_labeling.weights.files import EMBEDDED, identify

    names = [f"{role} {identify(role, 'embedded').sha256[:12]}..." for role in EMBEDDED]
    return Check("embedded weights", True, ", ".join(names))


def _published() -> Check:
    from pseudo_labeling.weights.files import cache_dir, paper_available

    if paper_available():
        return Check("published weights", True, f"in {cache_dir()}")
    # not having them is no fault: the embedded ones are used
    return Check("published weights", True, f"not in {cache_dir()}; `nnUNetv2_clisc weights download` fetches them")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", True, f"cuda, {torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    return Check("device", True, f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}; give -device cpu")


def _disk() -> Check:
    place = Path(os.environ.get("nnUNet_results") or ".")
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    ok = free >= ENOUGH_DISK_GIB
    return Check(
        "disk", ok, f"{free:.0f} GiB free at {place}" + ("" if ok else f"; make room for {ENOUGH_DISK_GIB} GiB")
    )
