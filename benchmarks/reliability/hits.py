"""What kills hit, kill by kill and as a table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability.killing import Course
from benchmarks.reliability.outputs import is_temporary
from benchmarks.reliability.report import markdown


@dataclass
class Hit:
    """One kill: where it fell and what it left."""

    chain: int
    stage: str
    seconds: float
    processes: int
    interrupted: str
    unfinished: list[str]
    cut_theirs: list[str] = field(default_factory=list)


def kind_of(path: Path, work: Path) -> str:
    """A file's folder and type: one name for the files of all cases."""
    parts = [part for part in path.relative_to(work).parts if not part.startswith(("Dataset", "Reliability", "fold_"))]
    folder = "/".join(parts[:-1]).removeprefix("nnUNet_")
    ending = ".".join(parts[-1].lstrip(".").split(".")[1:]) or parts[-1]
    temporary = " (temporary)" if is_temporary(path, work) else ""
    return f"{folder}/*.{ending}{temporary}"


def hits_table(hits: Sequence[Hit], courses: Mapping[str, Course]) -> str:
    """What was hit, a row a stage; `courses` of the stages in their order, uninterrupted."""
    by_stage: dict[str, list[Hit]] = defaultdict(list)
    for hit in hits:
        by_stage[hit.stage].append(hit)
    rows = []
    for name, course in courses.items():
        found = by_stage[name]
        common = Counter(hit.interrupted for hit in found).most_common(3)
        rows.append([
            name, len(found), f"{course.seconds:.0f}",
            sum(bool(hit.unfinished) for hit in found), sum(bool(hit.cut_theirs) for hit in found),
            "; ".join(f"{what} ({count})" for what, count in common),
        ])  # fmt: skip
    total = [f"**{sum(map(int, column))}**" for column in zip(*((row[1], row[3], row[4]) for row in rows), strict=True)]
    rows.append(["all", total[0], "", total[1], total[2], ""])
    columns = ["stage", "kills", "s uninterrupted", "a temporary file left", "a file of nnU-Net's cut",
               "last file operation before the kill (the three most frequent)"]  # fmt: skip
    return markdown(columns, rows)
