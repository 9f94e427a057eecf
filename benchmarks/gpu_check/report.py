"""`gpu.json` and `gpu.md` from what the parts have left."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.parts import BY_NAME
from dataset_conversion.files import whole, write_json

GOALS: dict[str, tuple[str, str, float]] = {
    "labelling against one by one": ("labelling.label_ratio", ">=", 8.0),
    "encoder's share of the bfloat16 matrix peak": ("encoder.best_share_of_peak", ">=", 0.4),
    "step against nnUNetTrainer, plain": ("trainers.plain.iteration_ratio", "<=", 1.02),
    "step against nnUNetTrainer, compiled": ("trainers.compiled.iteration_ratio", "<=", 1.02),
}
_SIGNS = {">=": operator.ge, "<=": operator.le}
Rows = Sequence[Sequence[Any]]


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write both files whole; `content` gets the `goals`."""
    content["goals"] = goals(content)
    write_json(folder / "gpu.json", content)
    with whole(folder / "gpu.md") as temporary:
        temporary.write_text(markdown(content))


def goals(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of each goal the value and whether it is met; a small run or a CPU says nothing about a goal for GPUs."""
    counts = content["device"].startswith("cuda") and not content["small"]
    found = {}
    for title, (key, sign, goal) in GOALS.items():
        value = _value(content["parts"], key)
        state = "not measured"
        if value is not None and counts:
            state = "met" if _SIGNS[sign](value, goal) else "not met"
        found[title] = {"key": key, "goal": f"{sign} {goal}", "value": value, "state": state}
    return found


def _value(parts: Mapping[str, Any], key: str) -> float | None:
    """A number in the results of a part, however far that came; None where it is missing."""
    name, *path = key.split(".")
    value: Any = parts.get(name, {}).get("result", {})
    if path == ["best_share_of_peak"]:
        shares = [each["share_of_peak"] for kind in ("bf16", "bf16_compiled") for each in value.get(kind, {}).values()]
        return max(shares, default=None)
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def markdown(content: Mapping[str, Any]) -> str:
    """The page: machine, goals, how each part ended, and its numbers."""
    machine = content["machine"]
    where = [machine.get("gpu"), machine.get("processor"), f"{machine.get('cores')} cores"] if machine else ["unknown"]
    versions = machine.get("versions", {})
    lines = ["# GPU check", "", f"{', '.join(str(each) for each in where if each)}; Python {machine.get('python')}, "
             f"torch {versions.get('torch')}, CUDA {machine.get('cuda')}, nnU-Net {versions.get('nnunetv2')}; "
             f"device {content['device']}; {content['seconds']:.0f} s.", ""]  # fmt: skip
    if content["small"]:
        lines += ["**Tiny sizes: this shows that every part runs; its numbers mean nothing.**", ""]
    goal_rows = [(title, each["goal"], _number(each["value"]), each["state"])
                 for title, each in content["goals"].items()]  # fmt: skip
    lines += ["## Goals", "", *_table(("goal", "", "measured", "state"), goal_rows), "", "## Parts", ""]
    rows = [
        (name, part["status"], f"{part['seconds']:.0f} of {part['limit']:.0f} s", part.get("why", ""))
        for name, part in content["parts"].items()
    ]
    lines += [*_table(("part", "status", "took", "why"), rows), ""]
    for name, part in content["parts"].items():
        if part.get("result"):
            lines += [f"## {BY_NAME[name].title}", "", *_SECTIONS[name](part["result"]), ""]
    return "\n".join(lines)


def _encoder(result: Mapping[str, Any]) -> list[str]:
    titles = {"set_image": "`SamPredictor.set_image`, float32", "set_torch_image": "the same without resizing"}
    found = [(titles[kind], 1, each) for kind, each in result.get("predictor", {}).items()]
    for kind, title in (("bf16", "ours, bfloat16"), ("bf16_compiled", "ours, bfloat16, compiled")):
        found += [(title, batch, each) for batch, each in sorted(result.get(kind, {}).items(), key=lambda x: int(x[0]))]
    rows = [(t, b, _number(e["images_per_second"]), f"{100 * e['share_of_peak']:.1f} %") for t, b, e in found]
    head = f"Matrix peak in bfloat16 {_number(result['bfloat16_peak_tflops'])} TFLOP/s; "
    return [head + f"an image takes {_number(result['tflop_per_image'])} TFLOP.", "",
            *_table(("encoder", "batch", "images/s", "of the peak"), rows)]  # fmt: skip


def _trainers(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for kind in ("plain", "compiled"):
        if each := result.get(kind):
            memory = [_number(each["peak_gpu_memory_gib"].get(side)) for side in ("clisc", "stock")]
            low, high = each["iteration_ratio_interval"]
            seconds = [f"{1000 * each[key]:.1f}" for key in ("seconds_per_iteration", "stock_seconds_per_iteration")]
            rows.append((kind, *seconds, f"{each['iteration_ratio']:.3f} ({low:.3f} to {high:.3f})", *memory,
                         "×".join(map(str, each["patch"]))))  # fmt: skip
    heads = ("", "CLISCTrainer, ms", "nnUNetTrainer, ms", "ratio (95 % interval)", "GiB", "GiB, nnU-Net", "patch")
    return [f"Format: {result['format']}; batch 2, without drawing the batch.", "", *_table(heads, rows)]


def _labelling(result: Mapping[str, Any]) -> list[str]:
    lines = [f"{result['cases']} scans, {result['slices']} slices, {result['prompted_slices']} prompted; "
             f"{result['epochs']} epochs of each classifier. Ours {result['seconds_in_all']:.1f} s, "
             f"GPU memory {_number(result['peak_gpu_memory_gib'])} GiB."]  # fmt: skip
    if "label_ratio" in result:
        lines[0] += (f" One by one {result['one_by_one_seconds_in_all']:.1f} s: **{result['label_ratio']:.2f}** times; "
                     f"{result['label_ratio_needed_once']:.2f} without what the result does not need, "
                     f"{result['label_ratio_needed_once_without_figures']:.2f} without figures either; "
                     f"Dice between both {result['dice_between_both']:.3f}.")  # fmt: skip
    sides = {"ours": result["seconds"], "one by one": result.get("one_by_one_seconds", {})}
    rows = [(side, step, f"{seconds:.2f}") for side, steps in sides.items() for step, seconds in steps.items()]
    return [*lines, "", *_table(("way", "step", "s"), rows)]


def _stages(result: Mapping[str, Any]) -> list[str]:
    rows = [(stage, _number(rate)) for stage, rate in result["slices_per_second"].items()]
    return [f"{result['slices']} slices.", "", *_table(("stage", "slices/s"), rows)]


def _scans(result: Mapping[str, Any]) -> list[str]:
    cases = ", ".join(f"{number} {kind}" for kind, number in result["cases"].items())
    line = f"Cases: {cases}."
    if "seconds_per_step" in result:
        patch = "×".join(map(str, result["patch"]))
        line += f" {result.get('epochs')} epochs a round, {1000 * result['seconds_per_step']:.0f} ms a step at {patch}."
    scores = [(each["round"], f"{100 * each['dsc']:.1f}") for each in result["rounds"]]
    steps = [(step, f"{seconds:.1f}") for step, seconds in result["seconds"].items()]
    return [line, "", *_table(("round", "mean DSC of the held-out cases (%)"), scores), "",
            *_table(("step", "s"), steps)]  # fmt: skip


_SECTIONS = {"encoder": _encoder, "trainers": _trainers, "labelling": _labelling, "stages": _stages, "scans": _scans}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _table(heads: Sequence[str], rows: Rows) -> list[str]:
    cells = [[str(cell).replace("|", "/") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)]
