"""Damaged inputs, each to give a one-line error or a right result: ``python -m benchmarks.reliability.fuzz``.

Inputs are made and read in forked processes with a limit of memory and of time, so that a crash, a hang or a header
that promises a terabyte is a line in the table and not the end of the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.reliability.judging import ERROR, FAULT, RIGHT, Outcome, kind_of, try_input
from benchmarks.reliability.report import machine, markdown, write_result

SECONDS = 20  # that reading one small file may take
MEMORY = 3 * 2**30  # bytes of address space beyond those of the imports
AT_ONCE = 20  # inputs for one process


def _child(numbers: Sequence[int], seed: int, folder: Path, commands: set[int], pipe: Any) -> None:
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # ITK writes there too
        with redirect_stderr(nowhere):
            for number in numbers:
                pipe.send(number)
                if number in commands:
                    pipe.send(try_input(number, seed, folder, through_command=True))
                    continue
                resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
                signal.signal(signal.SIGALRM, _too_long)
                signal.alarm(SECONDS)
                try:
                    outcome = try_input(number, seed, folder)
                finally:
                    signal.alarm(0)
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                pipe.send(outcome)
    pipe.send(None)


def _too_long(*_: Any) -> None:
    raise RuntimeError(f"not done after {SECONDS} s")


class _Worker:
    """A forked process with some inputs; `step` tells what came of one, or that it is gone."""

    def __init__(self, numbers: list[int], seed: int, folder: Path, commands: set[int]) -> None:
        context = multiprocessing.get_context("fork")
        self.numbers, self.seed = list(numbers), seed
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(numbers, seed, folder, commands, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.current: int | None = None

    def finished(self) -> list[Outcome]:
        """Read until the next outcome; empty at the end, a FAULT where the process died or hangs."""
        while True:
            try:
                if not self.pipe.poll(8 * SECONDS):
                    return [self._gone("hangs")]
                found = self.pipe.recv()
            except EOFError:
                self.process.join()
                return [self._gone(f"the process died (exit code {self.process.exitcode})")]
            if isinstance(found, int):
                self.current = found
                self.numbers.remove(found)
            elif found is None:
                self.process.join()
                return []
            else:
                return [found]

    def _gone(self, why: str) -> Outcome:
        self.process.kill()
        self.process.join()
        number = self.current if self.current is not None else self.numbers.pop(0)
        return Outcome(number, kind_of(number, self.seed)[0], FAULT, "", why)


def run_fuzz(
    folder: Path, numbers: Sequence[int], seed: int, *, commands: int = 0, progress: bool = True
) -> list[Outcome]:
    """Try inputs by number; `commands` of them through the installed command."""
    with_command = [
        n for n in numbers if kind_of(n, seed)[0].split(" ")[0] in ("scan", "mask", "prediction", "settings")
    ]
    chosen = set(with_command[:: max(len(with_command) // commands, 1)][:commands]) if commands else set()
    outcomes: list[Outcome] = []
    waiting = [list(numbers[i : i + AT_ONCE]) for i in range(0, len(numbers), AT_ONCE)]
    with tqdm(total=len(numbers), desc="fuzz", unit="input", disable=not progress) as bar:
        while waiting:
            worker = _Worker(waiting.pop(0), seed, folder, chosen)
            while found := worker.finished():
                outcomes += found
                bar.update()
                if not worker.process.is_alive() and worker.process.exitcode != 0:
                    break
            if worker.numbers:  # it died: the rest in a new process
                waiting.insert(0, worker.numbers)
    return sorted(outcomes, key=lambda outcome: outcome.number)


def table(outcomes: Sequence[Outcome]) -> str:
    """Kind by outcome."""
    count = Counter((outcome.kind, outcome.outcome) for outcome in outcomes)
    kinds = sorted({outcome.kind for outcome in outcomes})
    rows: list[list[Any]] = [
        [kind, sum(count[kind, o] for o in (ERROR, RIGHT, FAULT)), *(count[kind, o] for o in (ERROR, RIGHT, FAULT))]
        for kind in kinds
    ]
    rows.append(["all", *(f"**{sum(row[i] for row in rows)}**" for i in range(1, 5))])
    return markdown(["kind", "inputs", ERROR, RIGHT, FAULT], rows)


def main() -> None:
    """Run, print the table and the faults, write the JSON file; the exit code is 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--commands", type=int, default=30, help="inputs that go through the installed command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="repeat these inputs, by number, and keep their files")
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz.json"))
    parser.add_argument("--keep", type=Path, default=Path("fuzz_faults"), help="folder for the files of the faults")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz_") as name:
        folder = Path(name)
        numbers = options.only or list(range(options.inputs))
        outcomes = run_fuzz(folder, numbers, options.seed, commands=0 if options.only else options.commands)
        faults = [outcome for outcome in outcomes if outcome.outcome == FAULT]
        for fault in faults:
            source, target = folder / f"{fault.number:05d}", options.keep / f"{fault.number:05d}"
            shutil.rmtree(target, ignore_errors=True)
            if source.exists():
                shutil.copytree(source, target)
    minutes = (time.monotonic() - start) / 60
    print(table(outcomes))
    print(f"\nseed {options.seed}, {minutes:.1f} min, {machine()}")
    for outcome in outcomes if options.only else faults:
        print(f"{outcome.outcome} {outcome.number} ({outcome.kind}; {outcome.what}): {outcome.message}")
    if faults:
        again = " ".join(str(fault.number) for fault in faults[:20])
        print(f"again: python -m benchmarks.reliability.fuzz --seed {options.seed} --only {again}")
        print(f"their files: {options.keep}")
    counts = Counter(f"{o.kind}: {o.outcome}" for o in outcomes)
    result = {"seed": options.seed, "minutes": minutes, "machine": machine(), "inputs": len(outcomes), "counts": counts,
              "faults": [asdict(fault) for fault in faults]}  # fmt: skip
    write_result(options.output, json.loads(json.dumps(result)))
    print(f"written to {options.output}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
