"""What tests of several files share."""

import pytest

from divergences import density_ratio


@pytest.fixture
def brief_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, for tests of what is done with a critic and not of what it learns."""
    for name in ("STEPS", "FEW_STEPS"):
        monkeypatch.setattr(density_ratio, name, density_ratio.EVERY)
