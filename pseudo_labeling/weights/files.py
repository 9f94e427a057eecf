"""Weight files on this machine: what a setting means, whether a file is the published one, and the table of all.

Free of torch, so that listing starts at once; `pseudo_labeling.weights.models` opens the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dataset_conversion.errors import UserError, explain
from dataset_conversion.files import sha256_of
from pseudo_labeling.settings import Settings
from pseudo_labeling.weights.downloads import fetch, size_of
from pseudo_labeling.weights.table import BY_NAME, PAPER, WEIGHTS, Role, WeightFile

EMBEDDED_DIR = Path(__file__).parents[1] / "embedded"
EMBEDDED: tuple[Role, ...] = ("clip", "sam", "unet")  # what the package carries

State = Literal["ok", "present", "partial", "damaged", "missing"]


@dataclass(frozen=True)
class WeightSpecs:
    """Where each network's weights come from: `embedded`, `paper` or a file."""

    clip: str
    sam: str
    classifier: str  # ImageNet weights of a ResNet50 backbone; unused where CLIP's own tower is the backbone
    dino: str = "none"  # a ViT-S/8, for the features of segments; a file, since its SHA-256 is not known to us


def needed_weights(settings: Settings, specs: WeightSpecs) -> dict[Role, str]:
    """The weights that a route reads, by role: all of CAM's, or SAM's and those of the segments' features."""
    if settings.masks.source == "prompted":
        return {"clip": specs.clip, "sam": specs.sam, "resnet50": specs.classifier}
    needed: dict[Role, str] = {"sam": specs.sam}
    if settings.segments.features == "clip":
        needed["clip"] = specs.clip
    elif settings.segments.features == "dino":
        needed["dino"] = specs.dino
    return needed


@dataclass(frozen=True)
class WeightRecord:
    """What is written beside every output; for the setting `none`, name `none` and no SHA-256."""

    spec: str
    name: str
    sha256: str


@dataclass(frozen=True)
class WeightStatus:
    """One row of the table that `list_weights` and `verify` return; prints as one line.

    Attributes:
        file: what is known of it; `url` is empty for the files of the package.
        path: where it belongs on this machine.
        bytes_here: size on disk, of the broken-off download where that is all there is.
        state: `missing`, `partial` (a download broke off), `present` (there, not verified), `ok` or `damaged`.
    """

    file: WeightFile
    path: Path
    bytes_here: int
    state: State

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return self.state in ("ok", "present")

    def __str__(self) -> str:
        paper = "paper" if self.file.name in PAPER.values() else ""
        size = f"{self.file.size / 1e6:.0f} MB"
        if self.state == "partial":
            size = f"{self.bytes_here / 1e6:.0f} of {size}"
        return f"{self.file.name:26} {self.state:8} {size:>14} {paper:5}  {self.file.title}: {self.path}"


def cache_dir() -> Path:
    """Where downloads go: `CLISC_WEIGHTS`, or else `~/.cache/nnunetv2_clisc`."""
    return Path(os.environ.get("CLISC_WEIGHTS") or "~/.cache/nnunetv2_clisc").expanduser()


def paper_available(folder: Path | None = None) -> bool:
    """Whether the files of `--weights paper` are all there, judged by name and size."""
    return all(_whole(BY_NAME[name], folder or cache_dir()) for name in PAPER.values())


def download(names: Sequence[str], folder: Path | None = None, *, progress: bool = True) -> list[Path]:
    """Download weight files that are not there yet; a download that broke off is continued.

    Args:
        names: names of `WEIGHTS`; `paper` stands for the paper's three, `all` for every file.
        folder: cache folder; `cache_dir()` when None.
        progress: show a bar.

    Returns:
        Where the files are.

    Raises:
        UserError: unknown name, no network, wrong size or SHA-256, or a folder that cannot be written.
    """
    groups = {"paper": list(PAPER.values()), "all": list(BY_NAME)}
    wanted = list(dict.fromkeys(member for name in names for member in groups.get(name, [name])))
    unknown = [name for name in wanted if name not in BY_NAME]
    if unknown:
        raise UserError(f"weights: no file is called '{unknown[0]}'; known: {', '.join([*groups, *BY_NAME])}")
    return [fetch(BY_NAME[name], folder or cache_dir(), progress=progress) for name in wanted]


def list_weights(folder: Path | None = None) -> list[WeightStatus]:
    """Every known weight file, embedded ones first; files that are there are `present`, not yet verified."""
    return [_status(weight, where, check=False) for weight, where in _known(folder)]


def verify(folder: Path | None = None) -> list[WeightStatus]:
    """The known files that are there, embedded ones first, each `ok` or `damaged` by its SHA-256."""
    there = [(weight, where) for weight, where in _known(folder) if (where / weight.file_name).is_file()]
    return [_status(weight, where, check=True) for weight, where in there]


def identify(role: Role, spec: str) -> WeightRecord:
    """Name and SHA-256 of the file a weights setting means, without opening it as a model.

    Raises:
        UserError: as for `locate`.
    """
    return WeightRecord(spec, "none", "") if spec == "none" else locate(role, spec)[1]


def locate(role: Role, spec: str) -> tuple[Path, WeightRecord]:
    """Find the file a weights setting means and check it before anyone opens it.

    Args:
        role: what the weights are for.
        spec: `embedded`, `paper`, a name of `WEIGHTS`, or the path of a file.

    Raises:
        UserError: no such file, or a known file with another SHA-256 than the published one.
    """
    expected: str | None
    if spec == "embedded":
        weight = _embedded(role)
        path, name, expected = EMBEDDED_DIR / weight.file_name, weight.title, weight.sha256
    elif (spec == "paper" and role in PAPER) or spec in BY_NAME:
        weight = _published(role, spec)
        path, name, expected = cache_dir() / weight.file_name, weight.title, weight.sha256
        if not path.is_file():
            raise UserError(
                f"{path}: {name} is not there; run `nnUNetv2_clisc weights download {spec}`, or use --weights embedded"
            )
    else:
        path = Path(spec).expanduser()
        known = next((weight for weight in WEIGHTS if weight.file_name == path.name), None)
        name, expected = (known.title, known.sha256) if known else (path.name, None)
    if not path.is_file():
        what = "a folder, not a weight file" if path.is_dir() else "no such weight file"
        known_names = ", ".join(weight.name for weight in WEIGHTS if weight.role == role)
        raise UserError(f"{path}: {what}; give a file, 'embedded', 'paper' or a known name ({known_names})")
    try:
        facts = path.stat()
        found = _remembered_sha256(path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise UserError(explain(error, path)) from error
    if expected is not None and found != expected:
        cure = "reinstall the package" if spec == "embedded" else "get it again, or rename it if it is your own model"
        raise UserError(f"{path}: SHA-256 is {found[:12]}..., but that of {name} is {expected[:12]}...; {cure}")
    return path, WeightRecord(spec, name, found)


@lru_cache(maxsize=32)
def _remembered_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """A run asks for the same large files several times; size and time tell whether a file has changed since."""
    return sha256_of(path)


def _published(role: Role, spec: str) -> WeightFile:
    weight = BY_NAME[PAPER[role] if spec == "paper" else spec]
    if weight.role != role:
        fitting = ", ".join(weight.name for weight in WEIGHTS if weight.role == role)
        raise UserError(f"weights '{spec}': {weight.title} is no {role}; names that fit: {fitting}")
    return weight


def _embedded(role: Role) -> WeightFile:
    """The package's own file, from its table `weights.json`."""
    path = EMBEDDED_DIR / "weights.json"
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: table of the embedded weights cannot be read; reinstall the package") from error
    if role not in table:
        raise UserError(f"weights 'embedded': the package carries none for {role}; use 'paper' or a file")
    file_name, sha256 = str(table[role]["file"]), str(table[role]["sha256"])
    return WeightFile(
        f"embedded_{role}", role, f"embedded {role}", file_name, "", size_of(EMBEDDED_DIR / file_name), sha256
    )


def _known(folder: Path | None) -> list[tuple[WeightFile, Path]]:
    embedded = [(_embedded(role), EMBEDDED_DIR) for role in EMBEDDED]
    return embedded + [(weight, folder or cache_dir()) for weight in WEIGHTS]


def _whole(weight: WeightFile, folder: Path) -> bool:
    return size_of(folder / weight.file_name) == weight.size


def _status(weight: WeightFile, folder: Path, *, check: bool) -> WeightStatus:
    path, part = folder / weight.file_name, folder / f"{weight.file_name}.part"
    state: State
    if not path.is_file():
        state = "partial" if part.is_file() else "missing"
    elif not _whole(weight, folder) or (check and sha256_of(path) != weight.sha256):
        state = "damaged"
    else:
        state = "ok" if check else "present"
    return WeightStatus(weight, path, size_of(path) or size_of(part), state)
