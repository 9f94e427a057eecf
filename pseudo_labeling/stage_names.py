"""What the stages of each route are called, on the command line and on disk; free of torch."""

from __future__ import annotations

from dataset_conversion.errors import UserError
from pseudo_labeling.settings import Settings

Stages = tuple[str, str, str, str]

PROMPTED_STAGES: Stages = ("slice_labels", "classifier", "masks", "finish")
EVERYTHING_STAGES: Stages = ("segments", "clusters", "masks", "finish")
STAGES = tuple(dict.fromkeys((*PROMPTED_STAGES[:2], *EVERYTHING_STAGES)))
SHARED_STAGES = (PROMPTED_STAGES[0], EVERYTHING_STAGES[0], "masks")  # their cases can be shared among processes


def stages_of(settings: Settings) -> Stages:
    """The stages of the route that the settings ask for, in order."""
    return PROMPTED_STAGES if settings.masks.source == "prompted" else EVERYTHING_STAGES


def check_stage(stage: str, settings: Settings) -> None:
    """Make sure that a route has a stage.

    Raises:
        UserError: it is one of the other route's, or none.
    """
    known = stages_of(settings)
    if stage not in known:
        raise UserError(
            f"--stage {stage}: with settings.masks.source = '{settings.masks.source}' the stages are "
            f"{', '.join(known)}; name one of these, or give the --preset of the other route"
        )
