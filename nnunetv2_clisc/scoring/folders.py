"""The commands `evaluate` and `compare`, from folders of masks to files and the text on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output
from nnunetv2_clisc.scoring.comparison import Comparison, compare_folders, evaluate_folder
from nnunetv2_clisc.scoring.comparison_files import write_folder, write_summary
from nnunetv2_clisc.scoring.comparison_tables import cases_table, main_table, notes
from nnunetv2_clisc.scoring.metrics import MetricSettings


def evaluate(
    pred: Path,
    gt: Path,
    *,
    settings: MetricSettings = MetricSettings(),
    json_file: Path | None = None,
    output: Path | None = None,
) -> str:
    """Measure one folder of predictions, as text; see :func:`evaluated`.

    Returns:
        Every case with mean ± sd over all and by size, as a Markdown table, and notes.
    """
    comparison = evaluated(pred, gt, settings=settings, json_file=json_file, output=output)
    return _screen(cases_table(comparison).to_markdown(), comparison)


def evaluated(
    pred: Path,
    gt: Path,
    *,
    settings: MetricSettings = MetricSettings(),
    json_file: Path | None = None,
    output: Path | None = None,
) -> Comparison:
    """Measure one folder of predictions.

    Args:
        pred, gt: folders of masks; what only one of them has is left out and named.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.
        json_file: gets the numbers.
        output: folder that gets tables, cases, plots and numbers.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    if output is not None:
        check_output(output, {"--pred": pred, "--gt": gt})
    if pred.resolve() == gt.resolve():
        raise UserError(f"--pred {pred}: is the folder of --gt, so every score would be perfect; name the predictions")
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        what = "is a folder" if json_file.is_dir() else "cannot be written, its folder is not there"
        raise UserError(f"--json {json_file}: {what}; name a file in a folder that exists")
    comparison = evaluate_folder(pred, gt, settings=settings)
    if json_file is not None:
        write_summary(comparison, json_file)
    if output is not None:
        write_folder(comparison, output)
    return comparison


def compare(
    methods: Sequence[str],
    gt: Path,
    output: Path,
    *,
    settings: MetricSettings = MetricSettings(),
    seed: int = 0,
) -> str:
    """Measure folders of predictions against the same references, as text; see :func:`compared`.

    Args:
        methods: `NAME=DIR` of each.

    Returns:
        Table 1 as Markdown, and notes.
    """
    comparison = compared(parse_methods(methods), gt, output, settings=settings, seed=seed)
    return _screen(main_table(comparison).to_markdown(), comparison)


def compared(
    folders: Mapping[str, Path],
    gt: Path,
    output: Path | None = None,
    *,
    settings: MetricSettings = MetricSettings(),
    seed: int = 0,
) -> Comparison:
    """Measure folders of predictions against the same references.

    Args:
        folders: masks of each method.
        gt: folder of reference masks.
        output: folder that gets `table.md`, `table.tex`, `cases.csv`, `summary.json` and the plots.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.
        seed: of the bootstrap intervals.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    if output is not None:
        check_output(output, {"--gt": gt} | {f"--method {name}": folder for name, folder in folders.items()})
    comparison = compare_folders(folders, gt, settings=settings, seed=seed)
    if output is not None:
        write_folder(comparison, output)
    return comparison


def parse_methods(texts: Sequence[str]) -> dict[str, Path]:
    """Folders by method from `NAME=DIR`.

    Raises:
        UserError: not of this form, or a name given twice.
    """
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = (part.strip() for part in text.partition("="))
        if not (name and equals and folder and name.isprintable()):
            raise UserError(f"--method {text}: write NAME=DIR")
        if name in folders:
            raise UserError(f"--method {text}: {name} is listed twice; give each method a name of its own")
        folders[name] = Path(folder)
    return folders


def _screen(table: str, comparison: Comparison) -> str:
    return table + "\n\n" + "\n".join(notes(comparison))
