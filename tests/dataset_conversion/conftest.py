"""nnU-Net's folders as a conversion finds them: set, and not made yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.volume_files import unmade_nnunet_folders


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of nnU-Net's folders `raw` and `pre`."""
    return unmade_nnunet_folders(tmp_path, monkeypatch)
