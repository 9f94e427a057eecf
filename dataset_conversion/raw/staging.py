"""Datasets get their names all at once, when everything in them is written."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_conversion.raw.target import Target

logger = logging.getLogger(__name__)


@contextmanager
def staging(target: Target) -> Iterator[tuple[Path, Path]]:
    """One hidden folder beside each final place (same file system, so the move is a rename), removed at the end."""
    made: list[Path] = []
    try:
        for parent in (target.raw, target.preprocessed):
            parent.mkdir(parents=True, exist_ok=True)
            for leftover in parent.glob(f".{target.dataset}.partial-*"):
                logger.warning("%s: left behind by a conversion that was killed; delete it", leftover)
            made.append(Path(tempfile.mkdtemp(prefix=f".{target.dataset}.partial-", dir=parent)))
        yield made[0], made[1]
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def publish(moves: list[tuple[Path, Path]]) -> None:
    """Rename every staged folder to its final name; if one cannot be, take the others back."""
    done: list[Path] = []
    try:
        for staged, final in moves:
            os.replace(staged, final)
            done.append(final)
    except BaseException:
        for final in done:
            shutil.rmtree(final, ignore_errors=True)
        raise
