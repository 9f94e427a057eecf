"""Which file imports which, read from the code without running it, and which room may: `LEVELS` is the rule.

The test `tests/tools/architecture/test_imports.py` and the picture of docs/architecture.md both read this module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("dataset_conversion", "pseudo_labeling", "nnunetv2_clisc")
AROUND = ("tools", "benchmarks", "tests")  # may import everything; no package imports them

# Lowest first. A room may import the rooms on the levels below its own, and no other.
LEVELS: tuple[dict[str, str], ...] = (
    {"dataset_conversion/basics": "one-line errors; files written whole"},
    {"dataset_conversion/scans": "reads, checks and writes images"},
    {"dataset_conversion/raw": "raw datasets, splits, folders of ids"},
    {"dataset_conversion/sources": "the layouts that convert knows"},
    {"pseudo_labeling/basics": "settings, presets, number formats"},
    {
        "pseudo_labeling/slices": "square 8-bit slices of a scan",
        "pseudo_labeling/embedded": "small networks, their phantoms",
    },
    {"pseudo_labeling/weights": "finds, fetches and loads networks"},
    {"pseudo_labeling/stages": "slice labels to prompts, in arrays"},
    {"pseudo_labeling/sam": "prompts to masks, in arrays"},
    {
        "pseudo_labeling/run": "the stages on a dataset's files",
        "pseudo_labeling/rivals": "methods to compare with",
        "pseudo_labeling/controls": "puts CLIP and CAM to the test",
    },
    {
        "nnunetv2_clisc/environment": "what -d and -device mean",
        "nnunetv2_clisc/networks": "SAM's encoder inside nnU-Net",
    },
    {
        "nnunetv2_clisc/running": "parts, GPUs, Slurm jobs",
        "nnunetv2_clisc/scoring": "masks against references",
    },
    {"nnunetv2_clisc/training": "trainers, two rounds, S3F"},
    {
        "nnunetv2_clisc/report": "one HTML page",
        "nnunetv2_clisc/studies": "ablation, baselines, sanity",
        "nnunetv2_clisc/demos": "the methods on phantoms",
        "nnunetv2_clisc/doctor": "fit to run?",
    },
    {
        "nnunetv2_clisc/ext_trainer": "where nnU-Net finds trainers",
        "nnunetv2_clisc/commands": "flags in, one call, text out",
        "nnunetv2_clisc/api": "the same calls for Python",
    },
    {"nnunetv2_clisc/cli": "nnUNetv2_clisc COMMAND"},
)
# A room is a folder with all below it, or these files at the top of a package.
FILES: dict[str, tuple[str, ...]] = {
    "dataset_conversion/basics": ("__init__", "errors", "files", "threads"),
    "pseudo_labeling/basics": ("__init__", "settings", "presets", "stage_names", "precision", "ahead"),
    "pseudo_labeling/slices": ("slices", "window"),
    "pseudo_labeling/stages": (
        "slice_labels",
        "backbones",
        "classifier",
        "cam",
        "cam_methods",
        "library_cam",
        "amda",
        "roi",
        "prompts",
        "shape_prior",
        "clusters",
    ),
    "nnunetv2_clisc/environment": ("__init__", "environment"),
    "nnunetv2_clisc/doctor": ("doctor",),
    "nnunetv2_clisc/api": ("api",),
    "nnunetv2_clisc/cli": ("cli",),
}

LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


@dataclass(frozen=True)
class Import:
    """One file needs another; both are paths from the project's root."""

    importer: str
    line: int
    imported: str


def room_of(file: str) -> str | None:
    """The room of a file of the packages, or None if the table names none."""
    package, first, *rest = file.split("/")
    if rest:
        folder = f"{package}/{first}"
        return folder if folder in LEVEL_OF and folder not in FILES else None
    stem = first.removesuffix(".py")
    return next((room for room, stems in FILES.items() if room.startswith(f"{package}/") and stem in stems), None)


def python_files(root: Path) -> list[str]:
    """The files of the packages, as paths from `root`."""
    return sorted(str(path.relative_to(root).as_posix()) for name in PACKAGES for path in (root / name).rglob("*.py"))


def imports(root: Path) -> list[Import]:
    """Every import between files of the project: at the top, within functions, and for type checkers only."""
    found = []
    for file in python_files(root):
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"), file)):
            for name in _names(node, file):
                target = _file(root, name)
                if target is not None and target != file:
                    found.append(Import(file, getattr(node, "lineno", 0), target))
    return sorted(set(found), key=lambda one: (one.importer, one.line, one.imported))


def room_arrows(found: list[Import]) -> dict[str, set[str]]:
    """For each room, the rooms it imports."""
    arrows: dict[str, set[str]] = {room: set() for room in LEVEL_OF}
    for one in found:
        here, there = room_of(one.importer), room_of(one.imported)
        if here is not None and there is not None and here != there:
            arrows[here].add(there)
    return arrows


def faults(root: Path) -> list[str]:
    """What breaks the rules, a line each with the files it is about; empty if nothing does."""
    lines = [
        f"{file}: in no room; move it into one, or name it in tools/architecture/imports.py"
        for file in python_files(root)
        if room_of(file) is None
    ]
    found = imports(root)
    for one in found:
        start = f"{one.importer}:{one.line} imports {one.imported}"
        here, there = room_of(one.importer), room_of(one.imported)
        if one.imported.split("/")[0] in AROUND:
            lines.append(f"{start}: no package imports {one.imported.split('/')[0]}")
        elif here is not None and there is not None and here != there and LEVEL_OF[there] >= LEVEL_OF[here]:
            where = "beside" if LEVEL_OF[there] == LEVEL_OF[here] else "below"
            lines.append(f"{start}: {here} lies {where} {there}")
    files: dict[str, set[str]] = {}
    for one in found:
        files.setdefault(one.importer, set()).add(one.imported)
    return lines + [f"circle: {' → '.join(circle)}" for circle in circles(files)]


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """A shortest way round for each node on a circle, each way once; its first and last entry are the same."""
    ways: dict[frozenset[str], list[str]] = {}
    for start in sorted(arrows):
        reached, ahead = {start: [start]}, [start]
        while ahead and frozenset(reached[start]) not in ways:
            here = ahead.pop(0)
            for there in sorted(arrows.get(here, ())):
                if there == start:
                    ways.setdefault(frozenset(reached[here]), [*reached[here], start])
                    ahead = []
                    break
                if there not in reached:
                    reached[there] = [*reached[here], there]
                    ahead.append(there)
    return list(ways.values())


def _names(node: ast.AST, file: str) -> Iterator[str]:
    """Dotted names that a statement imports; `from a import b` may mean the module `a.b` or a name within `a`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = file.split("/")[: -node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (str(given.value) for given in node.args[:1] if isinstance(given, ast.Constant))


def _file(root: Path, name: str) -> str | None:
    """The file that a dotted name leads to, as a path from `root`; None for other people's modules."""
    parts = name.split(".")
    if parts[0] not in PACKAGES + AROUND:
        return None
    for end in (len(parts), len(parts) - 1):
        path = "/".join(parts[:end])
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if (root / candidate).is_file():
                return candidate
    return None
