"""How fast: `make bench`, or ``python -m benchmarks.bench -o bench.json``; see docs/speed.md for what is compared.

Each part runs in a process of its own. `--quick` only shows that everything runs: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import encoder, labelling, training
from benchmarks.speed.measure import in_process, machine

HEADLINES = {
    "embedded.label_ratio": (">=", 3.0),
    "vit_b.encode_ratio": (">=", 1.5),
    "scaling.time_exponent": ("<=", 1.05),
    "trainer.iteration_ratio": ("<=", 1.02),
}
GPU_HEADLINES = {"vit_b.mask_ratio": (">=", 8.0), "vit_b.share_of_bfloat16_peak": (">=", 0.4)}


def parts(quick: bool, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by name."""
    shape = (24, 96, 96) if quick else (64, 240, 240)
    cuda = device.startswith("cuda")
    slices, repeats = (1, 1) if quick else (64, 5) if cuda else (4, 3)
    return {
        "embedded": lambda: labelling.compare(3 if quick else 6, shape, 1 if quick else None, device),
        "scaling": lambda: labelling.scaling(2, shape if quick else (32, 128, 128), 1 if quick else 4, device),
        "vit_b": lambda: in_process(encoder.compare, slices, repeats, device)[0],
        "trainer": lambda: in_process(training.compare, 2 if quick else 60, shape, device)[0],
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", choices=("embedded", "scaling", "vit_b", "trainer"), default=None)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    options = parser.parse_args()
    result: dict[str, Any] = {"quick": options.quick, "machine": machine(options.device)}
    for name, measure in parts(options.quick, options.device).items():
        if options.only is None or name in options.only:
            print(f"{name} ...", flush=True)
            result[name] = measure()
    goals = HEADLINES | (GPU_HEADLINES if options.device.startswith("cuda") else {})
    for key, (sign, goal) in goals.items():
        part, name = key.split(".")
        if part in result:
            value = result[key] = result[part][name]
            print(f"{key:<32}{value:>8.2f}   (goal {sign} {goal})")
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
