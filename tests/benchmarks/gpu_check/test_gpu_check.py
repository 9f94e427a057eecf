"""`make gpu-check DEVICE=cpu SMALL=1` as a user types it, and what it leaves where a part does not end well."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import running
from benchmarks.gpu_check.parts import BY_NAME, PARTS, SECONDS, Job, Part
from benchmarks.gpu_check.report import goals, write
from tests.helpers.commands import make_scans
from tests.helpers.paths import PROJECT


def gpu_check(
    output: Path, *more: str, arguments: str = ""
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any], str]:
    """The command, `gpu.json` and `gpu.md`."""
    command = ["make", "gpu-check", "DEVICE=cpu", "SMALL=1", f"GPU_PYTHON={sys.executable}", *more]
    done = subprocess.run([*command, f"ARGS=-o {output} {arguments}"], cwd=PROJECT, capture_output=True, text=True)
    return done, json.loads((output / "gpu.json").read_text()), (output / "gpu.md").read_text()


def test_every_part_runs(tmp_path: Path) -> None:
    scans = make_scans(tmp_path / "scans", 5, shape=(12, 48, 48))
    done, found, page = gpu_check(tmp_path, f"SCANS={scans / 'images'}", f"MASKS={scans / 'labels'}")
    parts = found["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {part.name: "ok" for part in PARTS}, page
    assert done.returncode == 0
    assert found["small"] is True
    assert found["machine"]["device"] == "cpu"

    encoder = parts["encoder"]["result"]
    rates = [encoder["predictor"][kind] for kind in ("set_image", "set_torch_image")]
    for kind in ("bf16", "bf16_compiled"):
        assert sorted(encoder[kind]) == ["1", "2"]
        rates += encoder[kind].values()
    for each in rates:
        share = each["images_per_second"] * encoder["tflop_per_image"] / encoder["bfloat16_peak_tflops"]
        assert each["share_of_peak"] == pytest.approx(share)
        assert share > 0

    for kind in ("plain", "compiled"):
        step = parts["trainers"]["result"][kind]
        assert step["iteration_ratio"] > 0
        low, high = step["iteration_ratio_interval"]
        assert low <= step["iteration_ratio"] <= high
        assert step["patch"] == [16, 32, 32]

    labelling = parts["labelling"]["result"]
    both = labelling["one_by_one_seconds_in_all"] / labelling["seconds_in_all"]
    assert labelling["label_ratio"] == pytest.approx(both)
    assert labelling["prompted_slices"] > 0
    assert labelling["dice_between_both"] > 0.9
    assert all(rate > 0 for rate in parts["stages"]["result"]["slices_per_second"].values())
    assert len(parts["stages"]["result"]["slices_per_second"]) == 4

    trained = parts["scans"]["result"]
    assert trained["cases"] == {"test": 1, "val": 1, "train": 3}
    assert [each["round"] for each in trained["rounds"]] == [1, 2]
    assert all(0 <= each["dsc"] <= 1 and len(each["cases"]) == 1 for each in trained["rounds"])

    for each in found["goals"].values():  # a CPU meets no goal of a GPU, whatever it measures
        assert each["value"] > 0
        assert each["state"] == "not measured"
    for part in PARTS:
        assert f"## {part.title}" in page
        assert re.search(rf"^\| {part.name} \| ok \| ", page, re.MULTILINE)


def test_a_part_that_ends_badly_costs_the_others_nothing(tmp_path: Path) -> None:
    scans = make_scans(tmp_path / "scans", 4, shape=(12, 48, 48))
    for path in (scans / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    folders = f"SCANS={scans / 'images'}", f"MASKS={scans / 'labels'}"
    done, found, page = gpu_check(tmp_path, *folders, arguments="--only encoder stages scans --limit stages=0.5")
    assert done.returncode != 0
    parts = found["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "encoder": "ok", "stages": "out of time", "scans": "failed"
    }  # fmt: skip
    assert parts["encoder"]["result"]["bf16"]["1"]["images_per_second"] > 0
    assert parts["stages"]["seconds"] < 20
    assert str(scans / "images") in parts["scans"]["why"]  # one line that names the file
    assert parts["scans"]["why"] == parts["scans"]["printed"][-1]
    assert re.search(r"^\| stages \| out of time \| .* \| stopped after ", page, re.MULTILINE)
    assert parts["scans"]["why"] in page
    assert found["goals"]["labelling against one by one"]["value"] is None


def test_no_process_outlives_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that hangs is ended with what it has started, and what it saved is kept."""
    room = tmp_path / "benchmarks" / "gpu_check"
    room.mkdir(parents=True)
    (room / "child.py").write_text(
        "import json, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "json.dump({'machine': {}, 'result': {'pid': child.pid}}, open(sys.argv[3], 'w'))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    job = Job("cpu", small=True, scans=None, masks=None, seconds=2)
    found = running.run_part(Part("encoder", "hangs", 2), job, tmp_path)
    assert found["status"] == "out of time"
    stat = Path(f"/proc/{found['result']['pid']}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_goals_are_for_a_gpu_at_full_size() -> None:
    plain, shares = {"iteration_ratio": 1.03}, {"bf16": 0.3, "bf16_compiled": 0.4}
    content: dict[str, Any] = {
        "small": False,
        "device": "cuda",
        "parts": {
            "encoder": {"result": {kind: {"8": {"share_of_peak": share}} for kind, share in shares.items()}},
            "trainers": {"result": {"plain": plain}},  # stopped before it had compiled
            "labelling": {"result": {}},
        },
    }  # fmt: skip
    found = goals(content)
    assert [each["state"] for each in found.values()] == ["not measured", "met", "not met", "not measured"]
    assert [each["value"] for each in found.values()] == [None, 0.4, 1.03, None]
    assert {each["state"] for each in goals(content | {"device": "cpu"}).values()} == {"not measured"}
    assert {each["state"] for each in goals(content | {"small": True}).values()} == {"not measured"}


def test_page_of_parts_that_did_not_come_far(tmp_path: Path) -> None:
    """Whatever a part has saved when it is stopped can be shown."""
    encoder = {"bfloat16_peak_tflops": 700.0, "tflop_per_image": 0.74, "bf16": {}}
    labelling = {"cases": 12, "slices": 288, "prompted_slices": 140, "epochs": 3, "seconds_in_all": 20.0,
                 "peak_gpu_memory_gib": 3.0, "seconds": {"masks": 4.0}}  # fmt: skip
    results: dict[str, Any] = {
        "encoder": encoder,
        "trainers": {"format": "float16"},
        "labelling": labelling,
        "stages": {"slices": 240, "slices_per_second": {}},
        "scans": {"cases": {"test": 16}, "seconds": {"convert": 1.0}, "rounds": []},
    }
    assert results.keys() == BY_NAME.keys()
    ended = {"status": "out of time", "why": "stopped after 9 s", "seconds": 9.0, "limit": 9.0}
    parts = {name: ended | {"result": result} for name, result in results.items()}
    write(tmp_path, {"small": False, "device": "cuda", "machine": {}, "seconds": 45.0, "parts": parts})
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("stopped after 9 s") == len(parts)
    assert "Matrix peak in bfloat16 700 TFLOP/s" in page
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["labelling"]["result"] == labelling


def test_it_ends_within_nine_minutes() -> None:
    assert sum(part.seconds for part in PARTS) <= 540
    assert SECONDS < 540
