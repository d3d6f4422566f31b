"""What a checkpoint must hold for this package, and Lightning, to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vae._extras import needs_extra

with needs_extra():
    from packaging.version import InvalidVersion, Version

KEY = "vae_training"  # of what is ours in a checkpoint of Lightning
NUMBER = (int, float)
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "state_dict": Mapping,
    "lr_schedulers": list,
    "optimizer_states": list,
    "callbacks": Mapping,
    "callbacks.Checks": Mapping,
    "callbacks.Checks.best": NUMBER,
    "callbacks.Checks.best_step": int,
    "callbacks.Checks.seconds": NUMBER,
    "callbacks.Checks.stopped_early": bool,
    "callbacks.Checks.alarms": Mapping,
    f"{KEY}.step": int,
    f"{KEY}.n_steps": int,
    f"{KEY}.settings": Mapping,
    f"{KEY}.watch": Mapping,
    f"{KEY}.watch.names": list,
    f"{KEY}.watch.count": int,
    f"{KEY}.watch.sums": Tensor,
}


def misfit(checkpoint: Mapping[str, Any]) -> str | None:
    """What is missing or of the wrong kind, in words; None for nothing."""
    for path, kind in FIELDS.items():
        value: Any = checkpoint
        for key in path.split("."):
            if key not in value:
                return f"{path} is missing"
            value = value[key]
        # True is an int to Python
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            return f"{path} is of type {type(value).__name__}"
    if not _is_version(checkpoint["pytorch-lightning_version"]):
        return "pytorch-lightning_version is not a version"
    record, state = checkpoint[KEY], checkpoint["state_dict"]
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        return "state_dict does not map names to tensors"
    if not 0 <= record["step"] <= record["n_steps"]:
        return f"it claims step {record['step']} of {record['n_steps']}"
    names, sums = record["watch"]["names"], record["watch"]["sums"]
    if not all(isinstance(n, str) for n in names) or list(sums.shape) != [len(names)]:
        return f"{KEY}.watch does not have a sum for each name"
    if not all(isinstance(n, int) for n in checkpoint["callbacks"]["Checks"]["alarms"].values()):
        return "callbacks.Checks.alarms are not numbers"
    states = checkpoint["optimizer_states"]
    if not states or not all(map(_of_optimizer, states)):
        return "optimizer_states are not those of Adam"
    return None


def n_optimized(state: Mapping[str, Any]) -> int:
    """How many parameters an optimizer had."""
    return sum(len(group["params"]) for group in state["param_groups"])


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _of_optimizer(state: object) -> bool:
    if not (isinstance(state, Mapping) and isinstance(state.get("state"), Mapping)):
        return False
    groups = state.get("param_groups")
    moments = state["state"].values()
    return (
        isinstance(groups, list)
        and all(isinstance(g, Mapping) and isinstance(g.get("params"), list) for g in groups)
        and all(isinstance(m, Mapping) and m.keys() >= MOMENTS for m in moments)
    )
