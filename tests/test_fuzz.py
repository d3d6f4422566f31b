"""A few hundred random cases of ``tests/fuzz.py``; ``make fuzz`` runs 50,000."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # tests is not installed

from divergences import mmd  # noqa: E402
from tests import fuzz  # noqa: E402

pytestmark = [  # torch's own compiler uses what torch deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize("chunk", range(4))
def test_random_cases(chunk: int) -> None:
    fuzz.fuzz(75, chunk)


def test_a_failure_is_five_lines_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smallest number of columns at which the error shows."""
    sums = mmd.squared_discrepancy

    def wrong(x: torch.Tensor, *others: object) -> torch.Tensor:
        return sums(x, *others) * (1.1 if x.shape[-1] > 3 else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(mmd, "squared_discrepancy", wrong)
    with pytest.raises(fuzz.Failure) as failure:
        fuzz.fuzz(200, 0)
    *lines, reason = str(failure.value).splitlines()
    assert len(lines) == 5
    assert "AssertionError" in reason
    assert ", 4)" in lines[2]
    with pytest.raises(AssertionError):
        exec("\n".join(lines), {})
    monkeypatch.undo()
    exec("\n".join(lines), {})


def test_a_run_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
    state = tmp_path / "fuzz.json"
    state.write_text(json.dumps({"7": 3}))
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "1500", "--seed", "7"]
    done = subprocess.run(
        [*command, "--state", str(state)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "no failure" in done.stdout
    assert "of 1500 cases" not in done.stdout
