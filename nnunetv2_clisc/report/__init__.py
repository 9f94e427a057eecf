"""The command `report`: one HTML file that shows what happened to a dataset, readable from disk and without network."""

from __future__ import annotations

from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.files import write_bytes
from nnunetv2_clisc.report.measures import measure
from nnunetv2_clisc.report.page import render
from nnunetv2_clisc.report.sources import Model, find_run


def write_report(
    dataset_id: int | str | Path,
    *,
    model: Model = Model(),
    pred: Path | None = None,
    gt: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Collect, measure, draw, and write the report whole or not at all.

    Args:
        dataset_id: of a dataset that `pseudo_label` has been through.
        model: which training to report; one that was not named may be missing.
        pred: folder of predictions `CASE.nii.gz` to show, of training or of other cases.
        gt: folder of masks `CASE.nii.gz` of some cases; read for scores only.
        output: the file; by default `DatasetNNN_NAME_report.html` in the current folder.

    Returns:
        The file written.

    Raises:
        UserError: whatever the user can mend, in one line; likewise, of a scan or a record of the labelling.
    """
    if output is not None and (output.is_dir() or output.suffix.lower() not in (".html", ".htm")):
        raise UserError(f"-o {output}: name a file that ends in .html")
    run = find_run(dataset_id, model, pred=pred, gt=gt)
    path = output or Path(f"{run.files.dataset.name}_report.html")
    html = render(run, measure(run))
    try:
        write_bytes(path, html.encode())
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written ({error.strerror}); name another file") from error
    return path
