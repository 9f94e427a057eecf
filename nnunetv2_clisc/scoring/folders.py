"""The commands `evaluate` and `compare`, from folders of masks to files and the text on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output
from nnunetv2_clisc.scoring.comparison import Comparison, compare_folders, evaluate_folder, with_confidence
from nnunetv2_clisc.scoring.comparison_files import write_folder, write_summary
from nnunetv2_clisc.scoring.comparison_tables import cases_table, main_table, notes, rejection_table
from nnunetv2_clisc.scoring.metrics import MetricSettings
from nnunetv2_clisc.scoring.tables import Table


def evaluate(
    pred: Path,
    gt: Path,
    *,
    settings: MetricSettings = MetricSettings(),
    json_file: Path | None = None,
    output: Path | None = None,
    confidence: Path | None = None,
) -> str:
    """Measure one folder of predictions, as text; see :func:`evaluated`.

    Returns:
        Every case with mean ± sd over all and by size, as a Markdown table, and notes.
    """
    comparison = evaluated(pred, gt, settings=settings, json_file=json_file, output=output, confidence=confidence)
    return _screen(cases_table(comparison), comparison)


def evaluated(
    pred: Path,
    gt: Path,
    *,
    settings: MetricSettings = MetricSettings(),
    json_file: Path | None = None,
    output: Path | None = None,
    confidence: Path | None = None,
) -> Comparison:
    """Measure one folder of predictions.

    Args:
        pred, gt: folders of masks; what only one of them has is left out and named.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.
        json_file: gets the numbers.
        output: folder that gets tables, cases, plots and numbers.
        confidence: CSV with a confidence of each case, which is put to the test; see `read_confidence`.

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
    if confidence is not None:
        comparison = with_confidence(comparison, {comparison.methods[0].name: confidence})
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
    confidence: Sequence[str] = (),
) -> str:
    """Measure folders of predictions against the same references, as text; see :func:`compared`.

    Args:
        methods: `NAME=DIR` of each.
        confidence: `NAME=FILE` of some.

    Returns:
        Table 1 as Markdown, and notes.
    """
    files = parse_methods(confidence, "--confidence", "FILE")
    comparison = compared(parse_methods(methods), gt, output, settings=settings, seed=seed, confidence=files)
    return _screen(main_table(comparison), comparison)


def compared(
    folders: Mapping[str, Path],
    gt: Path,
    output: Path | None = None,
    *,
    settings: MetricSettings = MetricSettings(),
    seed: int = 0,
    confidence: Mapping[str, Path] | None = None,
) -> Comparison:
    """Measure folders of predictions against the same references.

    Args:
        folders: masks of each method.
        gt: folder of reference masks.
        output: folder that gets `table.md`, `table.tex`, `cases.csv`, `summary.json` and the plots.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.
        seed: of the bootstrap intervals.
        confidence: by method, CSV with a confidence of each case, which is put to the test; see `read_confidence`.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    if output is not None:
        check_output(output, {"--gt": gt} | {f"--method {name}": folder for name, folder in folders.items()})
    comparison = compare_folders(folders, gt, settings=settings, seed=seed)
    if confidence:
        comparison = with_confidence(comparison, confidence)
    if output is not None:
        write_folder(comparison, output)
    return comparison


def parse_methods(texts: Sequence[str], flag: str = "--method", what: str = "DIR") -> dict[str, Path]:
    """Folders (or files) by method from `NAME=DIR`.

    Raises:
        UserError: not of this form, or a name given twice.
    """
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = (part.strip() for part in text.partition("="))
        if not (name and equals and folder and name.isprintable()):
            raise UserError(f"{flag} {text}: write NAME={what}")
        if name in folders:
            raise UserError(f"{flag} {text}: {name} is listed twice; give each method a name of its own")
        folders[name] = Path(folder)
    return folders


def _screen(table: Table, comparison: Comparison) -> str:
    shown = [table, rejection_table(comparison)] if comparison.rejections else [table]
    return "\n\n".join([*(each.to_markdown() for each in shown), "\n".join(notes(comparison))])
