"""One part in a process of its own: ``python -m benchmarks.gpu_check.child NAME JOB.json RESULT.json``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.parts import BY_NAME, Job
from dataset_conversion.errors import UserError
from dataset_conversion.files import write_json

TRAINERS = Path(__file__).parents[2] / "nnunetv2_clisc" / "ext_trainer"


def main() -> None:
    """Measure, and save what is known after each step: the process may be stopped at any time."""
    name, job_file, result_file = sys.argv[1:]
    job = Job(**json.loads(Path(job_file).read_text()))
    if str(TRAINERS) not in os.environ.get("nnUNet_extTrainer", ""):  # where the package is not installed
        others = os.environ.get("nnUNet_extTrainer")
        os.environ["nnUNet_extTrainer"] = os.pathsep.join([*([others] if others else []), str(TRAINERS)])
    os.environ["MPLBACKEND"] = "Agg"

    from benchmarks.speed.measure import machine

    facts = machine(job.device)

    def save(result: dict[str, Any]) -> None:
        write_json(Path(result_file), {"machine": facts, "result": result})

    save({})
    try:
        save(BY_NAME[name].measure(job, save))
    except UserError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
