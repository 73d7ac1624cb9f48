"""Fixtures that several test modules share."""

from pathlib import Path

import pytest
from hypothesis import settings

# A deadline would fail tests on a busy machine; without random seeds a failure can be replayed.
settings.register_profile("hemaseg", deadline=None, derandomize=True)
settings.load_profile("hemaseg")

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scans (see CONTRIBUTING.md); skips where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real scans not found at {REAL_DATA}")
    return REAL_DATA
