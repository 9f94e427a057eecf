"""`kill -9` at random moments over the whole chain: ``python -m benchmarks.reliability.kill_test --kills 100``.

Two uninterrupted chains tell how long each stage takes and what is the same from run to run. Then chain after chain is
killed in every stage, and each stage is run again, by the same command, until it ends. After every kill all files of
ours must be readable; after every stage all contents must be those of the uninterrupted chain.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.reliability import chain
from benchmarks.reliability.chain import STAGES, Stage
from benchmarks.reliability.hits import Hit, hits_table, kind_of
from benchmarks.reliability.killing import Attempt, Course, Moment, attempt
from benchmarks.reliability.outputs import Reader, contents, files_below, is_ours, is_temporary
from benchmarks.reliability.report import machine, write_result

Contents = dict[str, dict[str, str]]  # by stage, then by path


@dataclass
class KillTest:
    """The run and what it found; `faults` is empty when all is well."""

    root: Path
    rng: np.random.Generator
    stages: Sequence[Stage] = STAGES
    hits: list[Hit] = field(default_factory=list)
    late: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    courses: dict[str, Course] = field(default_factory=dict)
    reference: Contents = field(default_factory=dict)
    varying: set[str] = field(default_factory=set)

    def prepare(self, scans: Path) -> None:
        """The dataset that every chain begins with."""
        template = self.root / "template"
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (template / name).mkdir(parents=True)
        command = list(chain.convert_command(scans))
        subprocess.run(command, env=chain.environment(template), check=True, capture_output=True)

    def uninterrupted(self, again: bool) -> None:
        """What a chain makes that nobody kills; a second one tells what differs from run to run anyway."""
        work = chain.fresh_copy(self.root / "template", self.root / "chain")
        reader = Reader()
        found: Contents = {}
        for stage in tqdm(self.stages, desc="uninterrupted, again" if again else "uninterrupted", unit="stage"):
            done = self._run(work, stage, again=False, moment=None)
            if done.code != 0:
                raise SystemExit(f"error: {stage.name} fails without any kill; see {self._log(stage)}")
            found[stage.name] = contents(work, reader)
            self.courses[stage.name] = done.course
        if again:
            self.varying = {path for name, files in self.reference.items() for path in differences(files, found[name])}
            labels = [path for path in self.varying if is_ours(work / path, work) and "nnUNet_raw" in path]
            self.faults += [f"differs between two uninterrupted runs: {path}" for path in labels]
        else:
            self.reference = found

    def killed_chain(self, number: int, kills: dict[str, int], bar: Any) -> None:
        """One chain in which each stage is killed so many times and then run to its end."""
        work = chain.fresh_copy(
            self.root / "template", self.root / "chain"
        )  # the same place: nnU-Net's records name it
        reader = Reader()
        for stage in self.stages:
            if not self._killed_stage(number, work, stage, kills.get(stage.name, 0), reader, bar):
                self.faults.append(f"chain {number} could not be ended")
                return
            self._compare(number, work, stage, reader)
        for path in files_below(work):
            if is_temporary(path, work):
                self.faults.append(f"chain {number}: {path.relative_to(work)} was left behind")

    def _killed_stage(self, number: int, work: Path, stage: Stage, kills: int, reader: Reader, bar: Any) -> bool:
        done_share, hits, runs = 0.0, 0, 0
        temporary = {path for path in files_below(work) if is_temporary(path, work)}
        course = self.courses[stage.name]
        while True:
            moment = Moment.draw(self.rng, course, done_share) if hits < kills else None
            found = self._run(work, stage, again=runs > 0, moment=moment)
            runs += 1
            if found.killed:
                hits += 1
                done_share += 0.5 * found.course.operations / max(course.operations, 1)
                temporary = self._record(number, work, stage, found, reader, temporary)
                bar.update()
                continue
            if found.code == 0 or self._done_before(stage):
                self.late[stage.name] += hits < kills
                return True
            last = self._log(stage).read_text(errors="replace").strip().splitlines()[-1:]
            if stage.stock and runs < kills + 4:
                self.notes[f"{stage.name}: stock nnU-Net did not get over the kill ({' '.join(last)[:120]})"] += 1
                chain.forget_preprocessing(work)
                continue
            self.faults.append(f"chain {number}, {stage.name}: exit code {found.code} when resumed: {' '.join(last)}")
            return False

    def _done_before(self, stage: Stage) -> bool:
        """An export that was killed after its last step is there; the command then says so."""
        return stage.name == "export" and "exists already" in self._log(stage).read_text(errors="replace")

    def _record(
        self, number: int, work: Path, stage: Stage, found: Attempt, reader: Reader, before: set[Path]
    ) -> set[Path]:
        """Note a kill and look at every file; returns the temporary files there are, `before` those there were."""
        temporary: set[Path] = set()
        cut = []
        for path in files_below(work):
            if is_temporary(path, work):
                temporary.add(path)
            elif fault := reader.fault(path):
                name = str(path.relative_to(work))
                if is_ours(path, work):
                    self.faults.append(f"chain {number}, {stage.name}: {name} after a kill: {fault}")
                else:
                    cut.append(name)
        last = found.operations[-1] if found.operations else None
        interrupted = f"{last.kind} {kind_of(last.path, work)}" if last else "before the first file operation"
        self.hits.append(
            Hit(
                number,
                stage.name,
                round(found.course.seconds, 2),
                found.processes,
                interrupted,
                [str(path.relative_to(work)) for path in sorted(temporary - before)],
                cut,
            )
        )
        return temporary

    def _compare(self, number: int, work: Path, stage: Stage, reader: Reader) -> None:
        found = contents(work, reader)
        found = {name: digest for name, digest in found.items() if not is_temporary(work / name, work)}
        for name in differences(self.reference[stage.name], found):
            if name not in self.varying:
                self.faults.append(f"chain {number}: after {stage.name}, {name} is not that of the uninterrupted chain")
        for path in files_below(work):
            if not is_temporary(path, work) and (fault := reader.fault(path)):
                self.faults.append(f"chain {number}: after {stage.name}, {path.relative_to(work)}: {fault}")

    def _run(self, work: Path, stage: Stage, *, again: bool, moment: Moment | None) -> Attempt:
        return attempt(stage.command(work, again), chain.environment(work, stage), work, self._log(stage), moment)

    def _log(self, stage: Stage) -> Path:
        return self.root / f"{stage.name}.log"


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Paths that only one has, or whose content differs."""
    return sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))


def run_kill_test(root: Path, scans: Path, *, kills: int, chains: int, seed: int) -> KillTest:
    """The whole test; `chains` are planned, a few more are added where stages ended before they could be killed."""
    test = KillTest(root, np.random.default_rng(seed))
    test.prepare(scans)
    for again in (False, True):
        test.uninterrupted(again)
    with tqdm(total=kills, desc="kills", unit="kill") as bar:
        for number in range(2 * chains):
            missing = kills - len(test.hits)
            if missing <= 0 or len(test.faults) > 50:
                break
            quota = shares(missing, max(chains - number, 1), test, kills)
            test.killed_chain(number, quota, bar)
    return test


def shares(missing: int, chains_left: int, test: KillTest, kills: int) -> dict[str, int]:
    """How many kills each stage gets in the next chain: those that had fewest first."""
    now = -(-missing // chains_left)
    had = Counter(hit.stage for hit in test.hits)
    quota: Counter[str] = Counter()
    for _ in range(now):
        # where several had as few, the one that comes at random: a small dose is not to hit the first stages only
        order = test.rng.permutation(len(test.stages))
        name = min((test.stages[i].name for i in order), key=lambda name: had[name] + quota[name])
        quota[name] += 1
    return dict(quota)


def main() -> None:
    """Run, print the table, write the JSON file; the exit code is 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--chains", type=int, default=4, help="whole chains over which the kills are spread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("kill_test.json"))
    options = parser.parse_args()
    from tests.helpers.commands import make_scans

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill_test_") as folder:
        root = Path(folder)
        scans = make_scans(root / "scans", chain.CASES, chain.SHAPE)
        test = run_kill_test(root, scans, kills=options.kills, chains=options.chains, seed=options.seed)
    minutes = (time.monotonic() - start) / 60
    print(hits_table(test.hits, test.courses))
    print(f"\nseed {options.seed}, {minutes:.0f} min, {machine()}")
    print(f"differs between two uninterrupted chains: {', '.join(sorted(test.varying)) or 'nothing'}")
    for note, count in test.notes.items():
        print(f"note ({count} times): {note}")
    for fault in test.faults:
        print(f"FAULT: {fault}")
    print(f"{len(test.hits)} kills, {len(test.faults)} faults")
    result = {
        "seed": options.seed, "minutes": minutes, "machine": machine(), "kills": len(test.hits),
        "faults": test.faults, "notes": test.notes, "varying": sorted(test.varying), "ended_before_the_kill": test.late,
        "uninterrupted": {name: asdict(course) for name, course in test.courses.items()},
        "hits": [asdict(hit) for hit in test.hits],
    }  # fmt: skip
    write_result(options.output, result)
    print(f"written to {options.output}")
    sys.exit(1 if test.faults or len(test.hits) < options.kills else 0)


if __name__ == "__main__":
    main()
