"""What differs between the versions of torch, from 2.6 on, in one place."""

from __future__ import annotations

from typing import Any

import torch

_backends: Any = torch.backends


def fp32_precision(device_type: str) -> str:
    """What products in fp32 are made with: "ieee" or "none" for all digits. A setting of the
    process, which torch has by this name since 2.9."""
    if hasattr(_backends, "fp32_precision"):
        matmul = _backends.cuda.matmul if device_type == "cuda" else _backends.mkldnn.matmul
        return str(matmul.fp32_precision)
    if device_type == "cuda":
        return "tf32" if _backends.cuda.matmul.allow_tf32 else "ieee"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "bf16"
