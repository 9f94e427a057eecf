"""One broken case must not stop the others, and must not be forgotten either."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dataset_conversion.errors import UserError, explain, named

logger = logging.getLogger(__name__)


class CaseFailures:
    """Failures of single cases: each is logged at once, and the stage ends in an error after the last case."""

    def __init__(self) -> None:
        self.cases: dict[str, str] = {}

    @contextmanager
    def of(self, case: str) -> Iterator[None]:
        """Keep whatever goes wrong inside for the end."""
        try:
            yield
        except (UserError, OSError) as error:  # nothing that a traceback would explain
            self.cases[case] = explain(error) if isinstance(error, OSError) else str(error)
            logger.error("%s: failed, going on with the other cases: %s", case, self.cases[case])
        except Exception as error:  # e.g. out of GPU memory on one large scan; the traceback goes to the log
            self.cases[case] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logger.exception("%s: failed, going on with the other cases", case)

    def guarded(self, case: str, job: Callable[[], object]) -> Callable[[], None]:
        """A job that may run later, in a thread, and whose failure is the case's."""

        def run() -> None:
            with self.of(case):
                job()

        return run

    def check(self, stage: str, total: int) -> None:
        """End the stage if any of its `total` cases failed.

        Raises:
            UserError: names the cases and the first mistake.
        """
        if self.cases:
            first = next(iter(self.cases.values()))
            others = ", the others are done" if len(self.cases) < total else ""
            raise UserError(
                f"{stage}: {len(self.cases)} of {total} cases failed ({named(list(self.cases))}){others}; "
                f"mend and run again: {first}"
            )
