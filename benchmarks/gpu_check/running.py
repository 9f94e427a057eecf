"""Parts one after another, each in a process that is stopped at its limit and whose end costs the others nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.parts import Job, Part

ROOT = Path(__file__).parents[2]
LINES = 30  # of what a part printed last that are kept where it did not end well


def run_part(part: Part, job: Job, folder: Path) -> dict[str, Any]:
    """Run one part.

    Args:
        part: the part.
        job: what it is told; `seconds` is its limit.
        folder: for its files, temporary.

    Returns:
        `status` (`ok`, `failed` or `out of time`), `seconds`, `limit`, `why` where it is not ok, `printed` (its last
        lines) likewise, `result` as far as it came, and `machine`.
    """
    job_file, result_file, log_file = (folder / f"{part.name}{ending}" for ending in ("_job.json", ".json", ".log"))
    job_file.write_text(json.dumps(asdict(job)))
    start = time.monotonic()
    with log_file.open("w") as log, _started(part, job_file, result_file, folder, log) as process:
        try:
            code: int | None = process.wait(max(job.seconds, 0.1))
        except subprocess.TimeoutExpired:
            code = None
    known = json.loads(result_file.read_text()) if result_file.is_file() else {"machine": {}, "result": {}}
    found = {"seconds": time.monotonic() - start, "limit": job.seconds, **known}
    if code == 0:
        return {"status": "ok"} | found
    printed = [line.rstrip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()][-LINES:]
    if code is None:
        status, why = "out of time", f"stopped after {job.seconds:.0f} s"
    else:
        status = "failed"
        why = printed[-1].strip() if printed else "printed nothing"
        if code < 0:
            why = f"ended by signal {-code} ({signal.Signals(-code).name}); last line: {why}"
    return {"status": status, "why": why} | found | {"printed": printed}


@contextmanager
def _started(part: Part, job: Path, result: Path, folder: Path, log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The part's process, in a session of its own: with it ends whatever it has started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_check.child", part.name, str(job), str(result)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
