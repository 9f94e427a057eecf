"""The registry, the cache folder and what a weights setting means."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from open_clip.pretrained import get_pretrained_cfg
from torchvision.models import ResNet50_Weights

from dataset_conversion.errors import UserError
from pseudo_labeling.weights import files
from pseudo_labeling.weights.table import BY_NAME, PAPER, WEIGHTS, Role, WeightFile


def toy_file(name: str, role: Role, content: bytes) -> WeightFile:
    return WeightFile(
        name, role, f"toy {role}", f"{name}.bin", "http://x", len(content), hashlib.sha256(content).hexdigest()
    )


TOYS = {"a_clip": toy_file("a_clip", "clip", b"clip"), "a_sam": toy_file("a_sam", "sam", b"sam")}
TOYS["a_resnet"] = toy_file("a_resnet", "resnet50", b"resnet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, a registry of three toy files, and an embedded folder of two."""
    embedded = tmp_path / "embedded"
    embedded.mkdir()
    table = {}
    for role in files.EMBEDDED:
        (embedded / f"{role}.safetensors").write_bytes(f"small {role}".encode())
        table[role] = {"file": f"{role}.safetensors", "sha256": hashlib.sha256(f"small {role}".encode()).hexdigest()}
    (embedded / "weights.json").write_text(json.dumps(table))
    monkeypatch.setattr(files, "EMBEDDED_DIR", embedded)
    monkeypatch.setattr(files, "BY_NAME", TOYS)
    monkeypatch.setattr(files, "WEIGHTS", tuple(TOYS.values()))
    monkeypatch.setattr(files, "PAPER", {"clip": "a_clip", "sam": "a_sam", "resnet50": "a_resnet"})
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("CLISC_WEIGHTS", str(folder))
    return folder


def fill(cache: Path) -> None:
    for name, content in (("a_clip", b"clip"), ("a_sam", b"sam"), ("a_resnet", b"resnet")):
        (cache / f"{name}.bin").write_bytes(content)


# ------------------------------------------------------------------------------------------------------------ registry


def test_registry_is_well_formed() -> None:
    assert len(BY_NAME) == len(WEIGHTS) == len({w.file_name for w in WEIGHTS}) == len({w.sha256 for w in WEIGHTS})
    for weight in WEIGHTS:
        assert re.fullmatch("[0-9a-f]{64}", weight.sha256)
        assert weight.url.startswith("https://")
        assert weight.size > 4e7
    assert {role: BY_NAME[name].role for role, name in PAPER.items()} == {r: r for r in ("clip", "sam", "resnet50")}


def test_hashes_agree_with_those_in_published_names() -> None:
    clip, resnet = BY_NAME["clip_vit_b32"], BY_NAME["resnet50"]
    assert f"/{clip.sha256}/" in clip.url
    assert resnet.sha256.startswith(Path(resnet.file_name).stem.removeprefix("resnet50-"))


def test_urls_are_those_of_the_libraries() -> None:
    assert BY_NAME["resnet50"].url == ResNet50_Weights.IMAGENET1K_V1.url
    config = get_pretrained_cfg("ViT-B-32-quickgelu", "openai")
    assert BY_NAME["clip_vit_b32"].url == config["url"]
    assert config["hf_hub"].strip("/") in BY_NAME["clip_vit_b32_safetensors"].url


def test_registry_is_free_of_torch() -> None:
    code = "import sys, pseudo_labeling.weights.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------------------------------- cache


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLISC_WEIGHTS", str(tmp_path))
    assert files.cache_dir() == tmp_path
    monkeypatch.delenv("CLISC_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / ".cache" / "nnunetv2_clisc"


def test_paper_is_available_when_all_three_files_are_whole(cache: Path) -> None:
    assert not files.paper_available()
    fill(cache)
    assert files.paper_available()
    (cache / "a_sam.bin").write_bytes(b"sa")
    assert not files.paper_available()


def test_list_tells_states_apart(cache: Path) -> None:
    (cache / "a_clip.bin").write_bytes(b"CLIP")  # right size, wrong content: a listing does not read files
    (cache / "a_sam.bin").write_bytes(b"sa")
    (cache / "a_resnet.bin.part").write_bytes(b"res")
    rows = files.list_weights()
    states = {row.file.name: row.state for row in rows}
    assert states == {
        "embedded_clip": "present",
        "embedded_sam": "present",
        "embedded_unet": "present",
        "a_clip": "present",
        "a_sam": "damaged",
        "a_resnet": "partial",
    }
    assert rows[-1].bytes_here == 3
    assert all("\n" not in str(row) and row.file.name in str(row) for row in rows)


def test_verify_reads_what_is_there(cache: Path) -> None:
    (cache / "a_clip.bin").write_bytes(b"CLIP")
    (cache / "a_sam.bin").write_bytes(b"sam")
    rows = {row.file.name: row for row in files.verify()}
    assert {name: row.state for name, row in rows.items()} == {
        "embedded_clip": "ok",
        "embedded_sam": "ok",
        "embedded_unet": "ok",
        "a_clip": "damaged",
        "a_sam": "ok",
    }
    assert not rows["a_clip"].ok
    assert rows["a_sam"].ok


def test_download_skips_what_is_there_and_knows_paper(cache: Path) -> None:
    fill(cache)
    assert files.download(["paper"]) == [cache / f"{name}.bin" for name in ("a_clip", "a_sam", "a_resnet")]
    assert files.download(["a_sam", "all", "a_sam"])[0] == cache / "a_sam.bin"


def test_download_of_unknown_name_lists_the_known(cache: Path) -> None:
    with pytest.raises(UserError, match=r"'sam2'.*paper.*a_sam"):
        files.download(["a_clip", "sam2"])
    assert list(cache.iterdir()) == []  # nothing was fetched before the mistake was seen


# ------------------------------------------------------------------------------------------------------ what specs mean


def test_identify_is_the_record_beside_outputs(cache: Path) -> None:
    fill(cache)
    record = files.identify("sam", "paper")
    assert dataclasses.asdict(record) == {"spec": "paper", "name": "toy sam", "sha256": TOYS["a_sam"].sha256}
    assert files.identify("sam", "a_sam").sha256 == record.sha256
    assert files.identify("resnet50", "none") == files.WeightRecord("none", "none", "")
    assert files.identify("clip", "embedded").name == "embedded clip"


def test_file_of_ones_own_goes_by_its_name(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"abc")
    record = files.identify("sam", str(tmp_path / "mine.pth"))
    assert record == files.WeightRecord(str(tmp_path / "mine.pth"), "mine.pth", hashlib.sha256(b"abc").hexdigest())


def test_changed_file_gets_a_new_hash(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"abc")
    before = files.identify("sam", str(path)).sha256
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))
    assert files.identify("sam", str(path)).sha256 != before


@pytest.mark.parametrize("spec", ["paper", "a_sam", "path"])
def test_known_name_with_another_hash_is_refused(cache: Path, tmp_path: Path, spec: str) -> None:
    (cache / "a_sam.bin").write_bytes(b"SAM")
    with pytest.raises(
        UserError, match=rf"a_sam\.bin: SHA-256 is .* but that of toy sam is {TOYS['a_sam'].sha256[:12]}"
    ):
        files.identify("sam", str(cache / "a_sam.bin") if spec == "path" else spec)


def test_damaged_embedded_file_is_refused(cache: Path) -> None:
    (files.EMBEDDED_DIR / "clip.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match="reinstall the package"):
        files.identify("clip", "embedded")


def test_missing_table_of_embedded_weights_is_named(cache: Path) -> None:
    (files.EMBEDDED_DIR / "weights.json").unlink()
    with pytest.raises(UserError, match=r"weights\.json"):
        files.identify("clip", "embedded")


def test_missing_paper_file_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"a_sam\.bin: .* weights download paper`, or use --weights embedded"):
        files.identify("sam", "paper")


def test_missing_file_and_folder_are_told_apart(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth: no such weight file"):
        files.identify("sam", str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="a folder"):
        files.identify("sam", str(tmp_path))


def test_weights_of_another_role_are_refused(cache: Path) -> None:
    with pytest.raises(UserError, match="is no clip; names that fit: a_clip"):
        files.identify("clip", "a_sam")
    with pytest.raises(UserError, match="carries none for resnet50"):
        files.identify("resnet50", "embedded")
