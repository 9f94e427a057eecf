"""What a user asks of `pseudo_label`, as values and as the command line that asks the same of another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LabellingOptions:
    """Options of `nnUNetv2_clisc pseudo_label`; None where the user left the choice to us."""

    dataset: int | str | Path  # number or name; a folder in this process only
    device: str | None = None
    weights: str | None = None
    clip_weights: str | None = None
    sam_weights: str | None = None
    classifier_weights: str | None = None
    image_labels: Path | None = None
    preset: str | None = None
    settings_file: Path | None = None
    changes: tuple[str, ...] = ()
    seed: int = 0
    redo: tuple[str, ...] | None = None  # what a person changed and is to be made anew; () = all of it
    dino_weights: str | None = None

    def arguments(self, stage: str | None = None) -> list[str]:
        """`pseudo_label` with these options; files as absolute paths, since a job may start in another folder."""
        flags = {
            "-device": self.device,
            "--weights": _absolute(self.weights),
            "--clip-weights": _absolute(self.clip_weights),
            "--sam-weights": _absolute(self.sam_weights),
            "--classifier-weights": _absolute(self.classifier_weights),
            "--dino-weights": _absolute(self.dino_weights),
            "--image-labels": None if self.image_labels is None else str(self.image_labels.absolute()),
            "--preset": self.preset,
            "--settings": None if self.settings_file is None else str(self.settings_file.absolute()),
            "--stage": stage,
        }
        arguments = ["pseudo_label", "-d", str(self.dataset), "--seed", str(self.seed)]
        arguments += [text for flag, value in flags.items() if value is not None for text in (flag, value)]
        arguments += [text for change in self.changes for text in ("--set", change)]
        return arguments + (["--redo", *self.redo] if self.redo is not None else [])


def _absolute(spec: str | None) -> str | None:
    """A weights setting; a file as an absolute path, names as they are."""
    return str(Path(spec).absolute()) if spec is not None and Path(spec).is_file() else spec
