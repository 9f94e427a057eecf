"""Everything that is to be known of a machine with a CUDA GPU, within nine minutes: ``python -m benchmarks.gpu_check``.

Each part runs in a process of its own with a limit of its own; `gpu.json` and `gpu.md` are written after each. See
docs/speed.md for what is measured and what must be installed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import report
from benchmarks.gpu_check.parts import BY_NAME, PARTS, SECONDS, SMALL_SECONDS, Job
from benchmarks.gpu_check.running import run_part


def main() -> int:
    """Run the parts; 0 when all of them ended well."""
    options = _options()
    begin = time.monotonic()
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "small": options.small, "device": options.device, "machine": {}, "seconds": 0.0, "parts": {}
    }  # fmt: skip
    for part in PARTS:
        if part.name not in (options.only or BY_NAME):
            continue
        if part.name == "scans" and options.scans is None:
            found: dict[str, Any] = {"status": "not asked", "why": "needs --scans and --masks"}
            found |= {"seconds": 0.0, "limit": 0.0, "result": {}}
        else:
            usual, left = (
                (SMALL_SECONDS, SMALL_SECONDS)
                if options.small
                else (part.seconds, SECONDS - (time.monotonic() - begin))
            )
            seconds = min(options.limit.get(part.name, usual), left)
            print(f"{part.name}: {part.title} (at most {max(seconds, 0):.0f} s) ...", flush=True)
            job = Job(options.device, options.small, options.scans, options.masks, seconds)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
                found = run_part(part, job, Path(temporary))
            content["machine"] = found.pop("machine") or content["machine"]
        content["parts"][part.name] = found
        content["seconds"] = time.monotonic() - begin
        report.write(folder, content)
        print(f"{part.name}: {found['status']}{': ' if 'why' in found else ''}{found.get('why', '')}", flush=True)
    print(f"\n{(folder / 'gpu.md').read_text()}\nwritten to {folder / 'gpu.json'} and {folder / 'gpu.md'}")
    return int(any(part["status"] in ("failed", "out of time") for part in content["parts"].values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder for gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--scans", type=_folder, metavar="DIR", help="scans to train on, one file a case")
    parser.add_argument("--masks", type=_folder, metavar="DIR", help="their masks, named alike; only to score")
    parser.add_argument("--only", nargs="+", choices=BY_NAME, metavar="PART", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument(
        "--limit", type=_limit, action="append", default=[], metavar="PART=SECONDS", help="another limit for a part"
    )
    options = parser.parse_args()
    if (options.scans is None) != (options.masks is None):
        parser.error("--scans and --masks: name both or none")
    options.limit = dict(options.limit)
    return options


def _folder(text: str) -> str:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return str(path.resolve())


def _limit(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    try:
        return BY_NAME[name].name, float(seconds)
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text}: give PART=SECONDS, PART one of {', '.join(BY_NAME)}") from None


if __name__ == "__main__":
    sys.exit(main())
