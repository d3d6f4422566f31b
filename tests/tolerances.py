"""The one table of tolerances. Beside it stands the rule of the flash-attention suites: an error
may be twice what plain torch makes in the same dtype, plus a floor."""

import torch
from torch import Tensor

# Relative to the largest entry of the truth.
RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}
GRADIENT = {torch.float64: 1e-11, torch.float32: 1e-5}


def assert_close(ours: Tensor, truth: Tensor, relative: float) -> None:
    """Largest error against the largest entry; NaN fails."""
    error = (ours.detach().double() - truth.detach().double()).abs().max()
    scale = truth.detach().double().abs().max()
    assert error <= relative * scale + 1e-300, f"error {error:.3g}, scale {scale:.3g}"


def assert_no_worse_than_eager(ours: Tensor, eager: Tensor, truth: Tensor, floor: float) -> None:
    """|ours − truth| ≤ 2·|eager − truth| + floor, all maxima."""
    truth = truth.detach().double()
    mine = (ours.detach().double() - truth).abs().max()
    theirs = (eager.detach().double() - truth).abs().max()
    assert mine <= 2.0 * theirs + floor, f"ours {mine:.3g}, eager {theirs:.3g}, floor {floor:.3g}"
