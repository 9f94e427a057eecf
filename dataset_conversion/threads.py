"""Many cases at once: reading, SimpleITK and gzip let other threads run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

MAX_THREADS = 8
Result = TypeVar("Result")


def in_threads(
    work: Callable[..., Result], jobs: Mapping[str, tuple[Any, ...]], title: str, threads: int | None = None
) -> dict[str, Result]:
    """What a function returns for each case, in the cases' order; the first error ends it and is raised.

    Args:
        work: called with a case's arguments.
        jobs: the arguments by case.
        title: of the progress bar.
        threads: cases at once; by default one per CPU core, at most 8.
    """
    pool = ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1))
    try:
        futures = {case: pool.submit(work, *arguments) for case, arguments in jobs.items()}
        return {case: future.result() for case, future in tqdm(futures.items(), desc=title, unit="case", disable=None)}
    finally:
        pool.shutdown(cancel_futures=True)
