"""The picture and the table of docs/architecture.md show the code as it is."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.helpers.paths import PROJECT
from tools.architecture.draw import PICTURE, TEXT, draw, needed, room_table, with_table


def test_picture_and_table_are_those_of_the_code() -> None:
    table = room_table(PROJECT)
    text = (PROJECT / TEXT).read_text(encoding="utf-8")
    assert table in text, "run `make architecture`"
    assert with_table(text, table) == text
    with Image.open(PROJECT / PICTURE) as picture:
        assert picture.info["Description"] == table, "run `make architecture`"


def test_only_the_table_of_the_text_is_exchanged() -> None:
    text = "# Title\n<!-- rooms -->\n\n| old |\n\n<!-- /rooms -->\nThe end.\n"
    assert with_table(text, "| new \\1 |") == text.replace("old", "new \\1")


def test_an_arrow_that_follows_from_others_is_not_drawn() -> None:
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert needed(arrows) == [("a", "b"), ("b", "c"), ("c", "d")]


def test_picture_is_drawn_with_what_it_shows(tmp_path: Path) -> None:
    draw(PROJECT, tmp_path / "rooms.png", "| a table with ö |")
    with Image.open(tmp_path / "rooms.png") as picture:
        assert picture.info["Description"] == "| a table with ö |"
        assert picture.width < picture.height < 1.6 * picture.width
