"""Run a command and kill it, and all its children, at a random moment of its work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.reliability.watch import Operation, Watch

TIMEOUT = 600.0  # seconds; nothing here takes a tenth of that


@dataclass(frozen=True)
class Course:
    """How an uninterrupted run of a stage went: its file operations, and when, in seconds from its start."""

    seconds: float
    first: float
    last: float
    operations: int


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after the first file operation, or right after the n-th operation."""

    seconds: float | None = None
    operation: int | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator, course: Course, share_done: float) -> Moment:
        """Anywhere in what is left of the work: half of the kills by the clock, half by the file operation.

        Starting up, mostly imports, comes before the first operation and is not aimed at. Kills by the clock rarely
        hit the milliseconds in which a file is written; those by the operation always do.

        Args:
            rng: all chance.
            course: of the uninterrupted run.
            share_done: of the work, by earlier runs that were killed; resuming is not to be shorter than the moment.
        """
        left = max(1.0 - share_done, 0.2)
        if rng.random() < 0.5:
            return cls(seconds=float(rng.uniform(0, max(course.last - course.first, 0.05) * left)))
        return cls(operation=int(rng.integers(1, max(int(course.operations * left), 1) + 1)))


@dataclass
class Attempt:
    """One run of a command; `operations` are those seen before it ended or was killed."""

    killed: bool
    code: int
    course: Course
    operations: list[Operation] = field(default_factory=list)
    processes: int = 1


def attempt(
    command: Sequence[str], environment: Mapping[str, str], root: Path, log: Path, moment: Moment | None
) -> Attempt:
    """Run a command to its end, or to a moment at which its whole process group gets `kill -9`.

    Args:
        command: as installed.
        environment: of the process.
        root: the folder whose file operations are watched.
        log: gets what the command prints.
        moment: None to let it end.
    """
    watch = Watch(root)
    operations: list[Operation] = []
    times: list[float] = []
    with log.open("w") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True, cwd=root
        )
    killed, processes = False, 1
    try:
        while process.poll() is None:
            now = time.monotonic() - start
            if now > TIMEOUT or (moment is not None and _reached(moment, times, now)):
                processes = len(_alive(process.pid))
                killed = True
                break
            wait = 0.2
            if moment is not None and moment.seconds is not None and times:
                wait = min(wait, times[0] + moment.seconds - now)
            found = watch.wait(wait)
            operations += found
            times += [time.monotonic() - start] * len(found)
            if moment is not None and moment.operation is not None and len(times) >= moment.operation:
                operations = operations[: moment.operation]
    finally:
        _kill_group(process)
    code = process.wait()
    if killed and code != -signal.SIGKILL:
        killed = False  # it ended between looking and killing
    seconds = time.monotonic() - start
    if not killed:
        operations += watch.wait(0)
        times += [seconds] * (len(operations) - len(times))
    watch.close()
    course = Course(seconds, times[0] if times else seconds, times[-1] if times else seconds, len(operations))
    return Attempt(killed, code, course, operations, processes)


def _reached(moment: Moment, times: Sequence[float], now: float) -> bool:
    if moment.operation is not None:
        return len(times) >= moment.operation
    return bool(times) and now - times[0] >= (moment.seconds or 0.0)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` to all that the command started, and wait until none of it runs any more."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _alive(group: int) -> list[int]:
    """Processes of a group that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state != "Z":
                    found.append(int(entry.name))
    return found
