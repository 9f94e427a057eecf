"""The report in a real browser: no error, no request, pictures load, tables sort."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_clisc.report import write_report
from tests.helpers.report_files import TRAINED, add_test_cases, add_training, make_labelled

pytestmark = pytest.mark.browser
CASES = [f"case_{number}" for number in (10, 9, 2, 0, 1, 3, 4)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("no Chromium: apt-get install chromium, or set CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def report(nnunet: Path, tmp_path: Path) -> Path:
    """A report with every section."""
    made = make_labelled(nnunet, CASES)
    add_training(made)
    pred = add_test_cases(made, tmp_path / "mine", ["t0", "t1"])
    return write_report(501, model=TRAINED, pred=pred, gt=made.gt, output=tmp_path / "r.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_opens_without_errors_or_requests_and_fits(browser: Any, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_load_state("networkidle")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    widths = page.eval_on_selector_all("img", "all => all.map(each => each.naturalWidth)")
    assert len(widths) > 20
    assert min(widths) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_click_sorts_a_table_and_a_second_click_turns_it_round(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    table = page.locator("#overview table")

    def column(heading: str) -> list[str]:
        headings = [text.strip() for text in table.locator("th").all_inner_texts()]
        place = headings.index(heading)
        return [row.locator("td").nth(place).inner_text() for row in table.locator("tbody tr").all()]

    def click(heading: str) -> None:
        table.get_by_role("button", name=heading, exact=True).click()

    click("Mask")
    numbers = [int(text.replace("\u202f", "")) for text in column("Mask")]
    assert numbers == sorted(numbers)
    click("Mask")
    assert [int(text.replace("\u202f", "")) for text in column("Mask")] == numbers[::-1]
    assert table.locator("th[aria-sort]").count() == 1
    for _ in range(2):  # what has no value stays at the end both ways
        click("Similarity")
        assert column("Similarity")[-1] == "–"
    click("Case")
    assert column("Case") == sorted(CASES, key=lambda case: int(case.split("_")[1]))
    page.close()
