"""The configuration of a run: flat, one field per flag and per line of config.yaml."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from divergences.kl_decomposition import MinibatchEstimator
from vae.model import Posterior
from vae.objectives.critics import Constraint

Binarise = Literal["none", "dynamic", "fixed"]
Network = Literal["mlp", "conv"]
PriorName = Literal["normal", "gaussian", "mixture"]
LikelihoodName = Literal[
    "gaussian", "gaussian-learned", "gaussian-pixel", "bernoulli", "laplace", "categorical"
]
RateName = Literal["kl", "capacity", "tc", "adversarial"]
ScheduleName = Literal["constant", "linear", "cosine", "cyclical"]
DivergenceName = Literal[
    "none",
    "mmd",
    "energy",
    "mmd-normal",
    "energy-normal",
    "imq",
    "sliced",
    "critic",
    "wasserstein",
]

GAUSSIAN = ("gaussian", "gaussian-learned", "gaussian-pixel")
TRAINING = (
    "epochs", "batch_size", "learning_rate", "critic_learning_rate", "critic_steps", "seed",
    "accelerator", "devices", "precision", "compile", "patience", "check_every",
)  # fmt: skip
OPTIONAL_COUNTS = (
    "heldout", "limit", "size", "schedule_steps", "patience", "check_every", "threads",
)  # fmt: skip


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. What is None is filled in by `vae.build.resolve` from the data.

    Raises:
        ValueError: a value outside its range, with the range.
    """

    preset: str = _option("mmd-vae", "the named objective that the other flags start from")

    data: str = _option("digits", "a named data set, an .npy or .npz file, a folder of images")
    root: str | None = _option(None, "folder of the IDX files of mnist and fashion-mnist")
    binarise: Binarise = _option("none", "binarise pixels: at every reading, or once")
    heldout: int | None = _option(None, "rows kept from training, where the data bring no split")
    limit: int | None = _option(None, "train on this many rows at most")
    size: int | None = _option(None, "side in pixels to which a folder's images are brought")

    network: Network = _option("mlp", "encoder and decoder")
    hidden: int = _option(300, "width of the hidden layer")
    latent: int = _option(10, "M, number of latent dimensions")
    posterior: Posterior = _option("gaussian", "posterior q(z|x): Gaussian, a point, or implicit")
    prior: PriorName = _option("normal", "p(z): N(0, I), or a learned Gaussian or mixture")
    components: int = _option(10, "number of components of a mixture prior")

    likelihood: LikelihoodName = _option("gaussian", "likelihood p(x|z)")
    variance: float = _option(1.0, "σ² of a Gaussian likelihood, its start if learned")
    floor: float = _option(1e-3, "least σ² where it is learned per pixel")
    scale: float = _option(1.0, "b of a Laplace likelihood: an L1 term of weight 1/b")
    levels: int = _option(256, "values of a categorical likelihood")

    rate: RateName = _option(
        "kl", "KL regulariser: β·KL, γ·|KL − C|, total correlation, or a critic's KL"
    )
    beta: float = _option(0.0, "β = 1−α, weight of the KL; of the total correlation for tc")
    schedule: ScheduleName = _option("constant", "schedule of β, or of the capacity")
    start: float = _option(0.0, "initial value of the schedule")
    schedule_steps: int | None = _option(None, "length of the schedule in steps (half of the run)")
    cycles: int = _option(4, "number of cycles of a cyclical schedule")
    gamma: float = _option(100.0, "γ of γ·|KL − C|")
    capacity: float = _option(10.0, "final C in nats")
    mutual_weight: float = _option(1.0, "weight of the mutual information, for tc")
    dimension_weight: float = _option(1.0, "weight of the dimension-wise KL, for tc")
    estimator: MinibatchEstimator = _option("stratified", "estimator of q(z) in a batch, for tc")
    divergence: DivergenceName = _option("mmd", "divergence D(q(z)‖p(z))")
    lambda_: float | None = _option(
        None, "λ in nats: D has weight α+λ−1 (the default of a preset: see `presets`)"
    )
    constraint: Constraint = _option("gradient-penalty", "of a Wasserstein critic")
    data_critic: bool = _option(False, "a critic of reconstructions and samples, as in the α-GAN")

    epochs: int = _option(100, "passes over the training rows")
    batch_size: int = _option(100, "rows to a step")
    learning_rate: float = _option(
        1e-3, "Adam's learning rate at the first step; a cosine takes it to 0"
    )
    critic_learning_rate: float | None = _option(None, "of critics, constant (as the rest)")
    critic_steps: int = _option(1, "steps of the critics to one of the rest")
    patience: int | None = _option(None, "stop after so many epochs without a better held-out loss")
    check_every: int | None = _option(None, "steps between checks on held-out rows (an epoch)")
    seed: int = _option(0, "seed of the split, the initial weights and every draw")
    accelerator: str = _option("auto", "Lightning's: auto, cpu, gpu, mps …")
    devices: int = _option(1, "number of devices; the divergence sees the whole batch")
    threads: int | None = _option(
        None, "CPU threads (1 for an mlp, which gains nothing from more; all for conv)"
    )
    precision: str = _option("32-true", "Lightning's: 32-true, bf16-mixed, 16-mixed, 64-true")
    compile: bool = _option(False, "torch.compile")

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices, value = get_args(hint), getattr(self, name)
            if choices and isinstance(choices[0], str) and value not in choices:
                raise ValueError(
                    f"{_flag(name)} must be one of {', '.join(choices)}, got {value!r}"
                )
        for name in ("latent", "hidden", "components", "epochs", "cycles", "critic_steps"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in OPTIONAL_COUNTS:
            value = getattr(self, name)
            self._check(name, value is None or value >= 1, "at least 1")
        self._check("batch_size", self.batch_size >= 2, "at least 2")
        self._check("levels", self.levels >= 2, "at least 2")
        self._check("devices", self.devices >= 1, "at least 1")
        self._check("seed", 0 <= self.seed < 2**31, "between 0 and 2^31 - 1")
        for name in ("variance", "floor", "scale", "learning_rate"):
            value = getattr(self, name)
            self._check(name, value > 0 and math.isfinite(value), "positive and finite")
        for name in ("beta", "start", "capacity", "gamma", "mutual_weight", "dimension_weight"):
            self._check(name, math.isfinite(getattr(self, name)), "finite")
        if self.patience is not None and self.adversarial:
            raise ValueError(
                "patience needs a loss whose values at different steps compare; a critic's do not"
            )
        if self.lambda_ is not None:
            self._check("lambda_", math.isfinite(self.lambda_), "finite")

    def _check(self, name: str, passed: bool, need: str) -> None:
        if not passed:
            raise ValueError(f"{_flag(name)} must be {need}, got {getattr(self, name)}")

    def training(self) -> dict[str, Any]:
        """The keyword arguments of `vae.fit`."""
        return {name: getattr(self, name) for name in TRAINING}

    @property
    def adversarial(self) -> bool:
        """There are critics."""
        return (
            self.rate == "adversarial"
            or self.divergence in ("critic", "wasserstein")
            or self.data_critic
        )

    def check_used(self, names: Iterable[str]) -> None:
        """Raises ValueError for a setting among these that has no effect beside the others."""
        for name in names:
            if name.rstrip("_") in MEANT_FOR:
                needs, present = MEANT_FOR[name.rstrip("_")]
                if not present(self):
                    raise ValueError(f"{_flag(name)} has no effect here: it needs {needs}")

    @property
    def alpha(self) -> float:
        """α = 1 − β of the InfoVAE."""
        return 1 - self.beta

    def replace(self, **changes: Any) -> Config:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, `lambda_` as ``lambda``."""
        return {name.rstrip("_"): value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown names, or values of another type.
        """
        known = {f.name.rstrip("_"): f.name for f in dataclasses.fields(cls)}
        unknown = sorted(map(str, set(values) - set(known)))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(_with_nearest(unknown, known))}")
        hints = get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[known[name]]):
                raise ValueError(f"{name} must be {_words(hints[known[name]])}, got {value!r}")
        return cls(**{known[name]: value for name, value in values.items()})


Test = Callable[[Config], bool]

MEANT_FOR: Mapping[str, tuple[str, Test]] = {
    "components": ("a mixture prior", lambda c: c.prior == "mixture"),
    "variance": ("a Gaussian likelihood", lambda c: c.likelihood in GAUSSIAN),
    "floor": ("likelihood gaussian-pixel", lambda c: c.likelihood == "gaussian-pixel"),
    "scale": ("likelihood laplace", lambda c: c.likelihood == "laplace"),
    "levels": ("likelihood categorical", lambda c: c.likelihood == "categorical"),
    "schedule": ("rate kl or capacity", lambda c: c.rate in ("kl", "capacity")),
    "start": ("a schedule", lambda c: c.schedule != "constant"),
    "schedule_steps": ("a schedule", lambda c: c.schedule != "constant"),
    "cycles": ("schedule cyclical", lambda c: c.schedule == "cyclical"),
    "beta": ("rate kl, tc or adversarial", lambda c: c.rate != "capacity"),
    "gamma": ("rate capacity", lambda c: c.rate == "capacity"),
    "capacity": ("rate capacity", lambda c: c.rate == "capacity"),
    "mutual_weight": ("rate tc", lambda c: c.rate == "tc"),
    "dimension_weight": ("rate tc", lambda c: c.rate == "tc"),
    "estimator": ("rate tc", lambda c: c.rate == "tc"),
    "lambda": ("a divergence", lambda c: c.divergence != "none"),
    "constraint": ("divergence wasserstein", lambda c: c.divergence == "wasserstein"),
    "critic_learning_rate": ("an objective with critics", lambda c: c.adversarial),
    "critic_steps": ("an objective with critics", lambda c: c.adversarial),
}


def _flag(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _with_nearest(unknown: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    for name in unknown:
        near = difflib.get_close_matches(name, list(known), n=1)
        yield f"{name} (did you mean {near[0]}?)" if near else name


def _kinds(hint: Any) -> tuple[type, ...]:
    kinds: tuple[Any, ...] = get_args(hint) or (hint,)
    return tuple(str if isinstance(kind, str) else kind for kind in kinds)


def from_text(text: str, hint: Any) -> Any:
    """The value of a flag, or the text where it is none of the type."""
    kinds = _kinds(hint)
    if text == "null" and type(None) in kinds:
        return None
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _fits(value: Any, hint: Any) -> bool:
    kinds = _kinds(hint)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _words(hint: Any) -> str:
    names = {
        type(None): "null",
        str: "text",
        float: "a number",
        int: "an integer",
        bool: "true or false",
    }
    return " or ".join(dict.fromkeys(names[kind] for kind in _kinds(hint)))
