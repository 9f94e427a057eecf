"""Settings: the paper's defaults, changes, and the way to JSON and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunetv2_clisc.errors import ClisError
from nnunetv2_clisc.labelling import resolve_settings
from pseudo_labeling.errors import PseudoLabelError
from pseudo_labeling.settings import PRESETS, Settings


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
    ],
)
def test_bad_change_is_one_line(change: str, says: str) -> None:
    with pytest.raises((ClisError, PseudoLabelError), match=says) as caught:
        resolve_settings("paper", None, [change], 0)
    assert "\n" not in str(caught.value)


def test_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("{")
    with pytest.raises(ClisError, match=r"s\.json"):
        resolve_settings("paper", path, [], 0)
