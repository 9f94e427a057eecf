"""Settings: the paper's defaults, changes, and the way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from dataset_conversion.errors import UserError
from nnunetv2_clisc.running.labelling import resolve_settings
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.run.workspace import key_of
from pseudo_labeling.settings import CamSettings, PromptSettings, Settings, described
from tests.helpers.paths import PROJECT


def test_defaults_are_the_papers() -> None:
    settings = Settings()
    assert (settings.amda.alpha, settings.s3f.beta) == (20, 20)
    assert (settings.classifier.learning_rate, settings.classifier.batch_size, settings.classifier.epochs) == (
        1e-4,
        8,
        200,
    )
    assert (settings.prompts.kind, settings.prompts.points, settings.prompts.margin) == ("both", "centre", 0)
    assert settings.slice_labels.vote_radius == 0
    assert (settings.amda.fill, settings.amda.masked_fraction) == ("zero", 1.0)
    assert settings == Settings().merged(PRESETS["paper"])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_json_round_trip(preset: str) -> None:
    settings = Settings().merged(PRESETS[preset])
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_changes_go_over_file_over_preset(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"prompts": {"margin": 7, "kind": "box"}, "cam": {"layers": ["layer4"]}}')
    settings = resolve_settings(
        "embedded", path, ["prompts.margin=9", "slice_labels.tumour_prompt=a scan, abnormal"], 3
    )
    assert settings.prompts.margin == 9
    assert settings.prompts.kind == "box"
    assert settings.cam.layers == ("layer4",)
    assert settings.slice_labels.tumour_prompt == "a scan, abnormal"
    assert settings.amda.fill == PRESETS["embedded"]["amda"]["fill"]
    assert settings.seed == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("prompts.margin", "write NAME=VALUE"),
        ("prompts.colour=1", "no setting is called 'colour'"),
        ("nothing=1", "no setting is called 'nothing'"),
        ("prompts=3", r"settings\.prompts"),
        ("prompts.margin=wide", r"settings\.prompts\.margin"),
        ("prompts.kind=circle", r"settings\.prompts\.kind"),
        ("amda.alpha=120", r"settings\.amda\.alpha"),
        ("s3f.beta=-1", r"settings\.s3f\.beta"),
        ("cam.layers=[]", r"settings\.cam\.layers"),
        ("prompts=[1]", r"settings\.prompts: is a group of settings"),
        ("classifier.learning_rate=Infinity", r"learning_rate: inf is not allowed; give a number of 0 or more"),
        ("classifier.learning_rate=NaN", r"learning_rate: nan is not allowed"),
        ("slice_labels.smoothing_mm=1" + 400 * "0", r"smoothing_mm: 10+ is not allowed"),
        ("classifier.image_size=128.5", r"image_size: 128\.5 is not allowed; give a whole number from 32 to 2048"),
        ('prompts.margin="5"', r"prompts\.margin: '5' is not allowed; give a whole number from 0 to 10000"),
        ("amda.alpha=true", r"amda\.alpha: True is not allowed; give a number from 0 to 100"),
        ("sam.compile=1", r"sam\.compile: 1 is not allowed; give true or false"),
        ("roi.threshold=1", r"roi\.threshold: 1 is not allowed; give otsu, or a number between 0 and 1"),
        ("cam.layers=layer3", r"cam\.layers: 'layer3' is not allowed; give a list of names"),
        ("slice_labels.normal_prompt= ", r"normal_prompt: ' ' is not allowed; give a text"),
        ("seed=-1", r"settings\.seed: -1 is not allowed; give a whole number from 0 to 4294967295"),
    ],
)
def test_bad_change_is_one_line(change: str, says: str) -> None:
    with pytest.raises((UserError), match=says) as caught:
        resolve_settings("paper", None, [change], 0)
    assert "\n" not in str(caught.value)


def test_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"s\.json"):
        resolve_settings("paper", path, [], 0)


@pytest.mark.parametrize("content", ["[1, 2]", '"prompts"', "3", "null"])
def test_a_file_without_names_is_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"--settings .*s\.json: settings: a .* is not allowed") as caught:
        resolve_settings("paper", path, [], 0)
    assert "\n" not in str(caught.value)


def test_a_number_is_one_setting_however_it_is_written() -> None:
    whole, float_ = (resolve_settings("paper", None, [f"slice_labels.smoothing_mm={n}"], 0) for n in ("10", "10.0"))
    assert key_of(whole.to_dict()) == key_of(float_.to_dict())
    size = resolve_settings("paper", None, ["classifier.image_size=128.0"], 0).classifier.image_size
    assert (size, type(size)) == (128, int)


def test_a_group_that_code_builds_is_checked_too() -> None:
    with pytest.raises(ValueError, match="margin"):
        PromptSettings(margin=-1)
    with pytest.raises(ValueError, match="precision"):
        replace(Settings().sam, precision="fp16")
    with pytest.raises(ValueError, match="colour"):
        PromptSettings(colour=1)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Settings().seed = 1  # type: ignore[misc]


def test_a_setting_added_later_changes_no_key_of_work_done_before() -> None:
    before = "CamSettings(layers=('layer3',), weighted=False)"  # as version 0.1.0 had it
    assert described(CamSettings()) == before
    assert key_of(CamSettings()) == key_of(before)
    assert described(CamSettings(method="gradcam")) == before[:-1] + ", method='gradcam')"
    assert key_of(CamSettings(method="gradcam")) != key_of(before)


def test_the_reference_lists_every_setting_with_every_preset() -> None:
    text = (PROJECT / "docs" / "reference.md").read_text()
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].count(".") == 1:
            rows[cells[0]] = [cell.strip("`") for cell in cells[1:5]]
    presets = [Settings().merged(PRESETS[name]).to_dict() for name in ("paper", "embedded", "public-code", "c2s")]
    groups = {group: values for group, values in presets[0].items() if isinstance(values, dict)}
    assert set(rows) == {f"{group}.{name}" for group, values in groups.items() for name in values}
    for setting, listed in rows.items():
        group, name = setting.split(".")
        values = [preset[group][name] for preset in presets]
        expected = [values[0], *(value if value != values[0] else "" for value in values[1:])]
        if not name.endswith("_prompt"):
            assert listed == [as_listed(value) for value in expected], setting


def as_listed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(as_listed(each) for each in value)
    if isinstance(value, float):
        thirds = {1 / 3: "1/3", 2 / 3: "2/3"}
        return thirds.get(value) or f"{value:g}"
    return str(value)
