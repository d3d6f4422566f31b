"""The configuration of a run: flat, one field per flag and per line of config.yaml."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from divergences.kl_decomposition import MinibatchEstimator
from vae.model import Posterior
from vae.objectives.critics import Constraint

Binarise = Literal["none", "dynamic", "fixed"]
Network = Literal["mlp", "conv", "gru"]
PriorName = Literal["normal", "gaussian", "mixture"]
LikelihoodName = Literal[
    "gaussian", "gaussian-learned", "gaussian-pixel", "bernoulli", "laplace", "categorical",
    "tokens",
]  # fmt: skip
RateName = Literal["kl", "kl-sampled", "capacity", "tc", "adversarial"]
ScheduleName = Literal["constant", "linear", "cosine", "cyclical"]
Decay = Literal["cosine", "none"]
OptimizerName = Literal["adam", "adamw", "nadam", "radam"]
DivergenceName = Literal[
    "none", "mmd", "energy", "mmd-normal", "energy-normal", "imq", "sliced", "critic", "wasserstein"
]

GAUSSIAN = ("gaussian", "gaussian-learned", "gaussian-pixel")
TRAINING = (
    "epochs", "batch_size", "learning_rate", "decay", "optimizer", "clip_norm",
    "critic_learning_rate", "critic_steps", "seed",
    "accelerator", "devices", "precision", "compile", "patience", "check_every",
)  # fmt: skip

Range = tuple[str, Callable[[Any], bool]]
COUNT: Range = ("at least 1", lambda value: value >= 1)
TWO: Range = ("at least 2", lambda value: value >= 2)
FINITE: Range = ("finite", math.isfinite)
POSITIVE: Range = ("positive and finite", lambda value: value > 0 and math.isfinite(value))
SEED: Range = ("between 0 and 2^31 - 1", lambda value: 0 <= value < 2**31)


def _option(default: Any, help_: str, range_: Range | None = None) -> Any:
    return field(default=default, metadata={"help": help_, "range": range_})


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. What is None is filled in by `vae.build.resolve` from the data.

    Raises:
        ValueError: a value outside its range, with the range.
    """

    preset: str = _option("mmd-vae", "the named objective that the other flags start from")

    data: str = _option(
        "digits", "a named data set, an .npy, .npz or .txt file, a folder of images"
    )
    root: str | None = _option(None, "folder of the IDX files of mnist and fashion-mnist")
    binarise: Binarise = _option("none", "binarise pixels: at every reading, or once")
    heldout: int | None = _option(
        None, "rows kept from training, where the data bring no split", COUNT
    )
    limit: int | None = _option(None, "train on this many rows at most", COUNT)
    size: int | None = _option(
        None, "side in pixels to which a folder's images are brought; bytes of a row of text", COUNT
    )

    network: Network = _option("mlp", "encoder and decoder: gru for text, conv for images")
    hidden: int = _option(300, "width of the hidden layer", COUNT)
    layers: str | None = _option(
        None, "widths of several hidden layers, 500-300: the encoder's, the decoder's reversed"
    )
    latent: int = _option(10, "M, number of latent dimensions", COUNT)
    posterior: Posterior = _option("gaussian", "posterior q(z|x): Gaussian, a point, or implicit")
    prior: PriorName = _option("normal", "p(z): N(0, I), or a learned Gaussian or mixture")
    components: int = _option(10, "number of components of a mixture prior", COUNT)

    likelihood: LikelihoodName = _option("gaussian", "likelihood p(x|z)")
    variance: float = _option(1.0, "σ² of a Gaussian likelihood, its start if learned", POSITIVE)
    floor: float = _option(1e-3, "least σ² where it is learned per pixel", POSITIVE)
    scale: float = _option(1.0, "b of a Laplace likelihood: an L1 term of weight 1/b", POSITIVE)
    levels: int = _option(256, "values of a categorical likelihood", TWO)

    rate: RateName = _option(
        "kl",
        "KL regulariser: β·KL in closed form or at the drawn z, γ·|KL − C|, total correlation, or "
        "a critic's KL",
    )
    beta: float = _option(0.0, "β = 1−α, weight of the KL; of the total correlation for tc", FINITE)
    schedule: ScheduleName = _option("constant", "schedule of β, or of the capacity")
    start: float = _option(0.0, "initial value of the schedule", FINITE)
    schedule_steps: int | None = _option(
        None, "length of the schedule in steps (half of the run)", COUNT
    )
    cycles: int = _option(4, "number of cycles of a cyclical schedule", COUNT)
    gamma: float = _option(100.0, "γ of γ·|KL − C|", FINITE)
    capacity: float = _option(10.0, "final C in nats", FINITE)
    mutual_weight: float = _option(1.0, "weight of the mutual information, for tc", FINITE)
    dimension_weight: float = _option(1.0, "weight of the dimension-wise KL, for tc", FINITE)
    estimator: MinibatchEstimator = _option("stratified", "estimator of q(z) in a batch, for tc")
    divergence: DivergenceName = _option("mmd", "divergence D(q(z)‖p(z))")
    lambda_: float | None = _option(
        None, "λ in nats: D has weight α+λ−1 (the default of a preset: see `presets`)", FINITE
    )
    constraint: Constraint = _option("gradient-penalty", "of a Wasserstein critic")
    data_critic: bool = _option(False, "a critic of reconstructions and samples, as in the α-GAN")

    conv_critics: bool | None = _option(
        None, "convolutions in critics of images (where encoder and decoder have them)"
    )

    epochs: int = _option(100, "passes over the training rows", COUNT)
    batch_size: int = _option(100, "rows to a step", TWO)
    learning_rate: float = _option(2e-3, "learning rate at the first step", POSITIVE)
    decay: Decay = _option("cosine", "of the learning rate: a cosine to 0 over the run, or none")
    optimizer: OptimizerName = _option("adam", "of encoder, decoder and prior")
    clip_norm: float | None = _option(
        None, "largest norm of the gradient of encoder, decoder and prior (no limit)", POSITIVE
    )
    critic_learning_rate: float | None = _option(None, "of critics, constant (as the rest)")
    critic_steps: int = _option(1, "steps of the critics to one of the rest", COUNT)
    patience: int | None = _option(
        None, "stop after so many epochs without a better held-out loss", COUNT
    )
    check_every: int | None = _option(
        None, "steps between checks on held-out rows (an epoch)", COUNT
    )
    seed: int = _option(0, "seed of the split, the initial weights and every draw", SEED)
    accelerator: str = _option("auto", "Lightning's: auto, cpu, gpu, mps …")
    devices: int = _option(1, "number of devices; the divergence sees the whole batch", COUNT)
    threads: int | None = _option(
        None, "CPU threads (1 for an mlp, which gains nothing from more; all for conv)", COUNT
    )
    precision: str = _option("32-true", "Lightning's: 32-true, bf16-mixed, 16-mixed, 64-true")
    compile: bool = _option(False, "torch.compile")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value, choices = getattr(self, setting.name), CHOICES.get(setting.name)
            if choices and value not in choices:
                need = f"one of {', '.join(choices)}, got {value!r}"
                raise ValueError(f"{_flag(setting.name)} must be {need}")
            if setting.metadata["range"] and value is not None:
                need, inside = setting.metadata["range"]
                if not inside(value):
                    raise ValueError(f"{_flag(setting.name)} must be {need}, got {value}")
        if self.layers is not None and not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", self.layers):
            raise ValueError(f"layers must be widths such as 500-300, got {self.layers!r}")
        if self.patience is not None and self.adversarial:
            raise ValueError(
                "patience needs a loss whose values at different steps compare; a critic's do not"
            )

    def training(self) -> dict[str, Any]:
        """The keyword arguments of `vae.fit`."""
        return {name: getattr(self, name) for name in TRAINING}

    @property
    def widths(self) -> list[int]:
        """Of the hidden layers of an mlp's encoder."""
        return [self.hidden] if self.layers is None else list(map(int, self.layers.split("-")))

    @property
    def adversarial(self) -> bool:
        """There are critics."""
        return self.criticises_data or self.divergence in ("critic", "wasserstein")

    @property
    def criticises_data(self) -> bool:
        """There are critics that look at data, not at codes alone."""
        return self.data_critic or self.rate == "adversarial"

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
        for name, value in values.items():
            kinds = KINDS[known[name]]
            if isinstance(value, bool):  # which is an int to Python
                fits = bool in kinds
            else:
                fits = isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
            if not fits:
                words = " or ".join(WORDS[kind] for kind in kinds)
                raise ValueError(f"{name} must be {words}, got {value!r}")
        return cls(**{known[name]: value for name, value in values.items()})


CHOICES: Mapping[str, tuple[str, ...]] = {
    name: get_args(hint)
    for name, hint in get_type_hints(Config).items()
    if isinstance(next(iter(get_args(hint)), None), str)
}
KINDS: Mapping[str, tuple[type, ...]] = {
    name: (str,) if name in CHOICES else get_args(hint) or (hint,)
    for name, hint in get_type_hints(Config).items()
}
WORDS: Mapping[type, str] = {
    type(None): "null",
    str: "text",
    float: "a number",
    int: "an integer",
    bool: "true or false",
}
Test = Callable[[Config], bool]

MEANT_FOR: Mapping[str, tuple[str, Test]] = {
    "layers": ("network mlp", lambda c: c.network == "mlp"),
    "hidden": ("no layers, which are the widths", lambda c: c.layers is None),
    "components": ("a mixture prior", lambda c: c.prior == "mixture"),
    "variance": ("a Gaussian likelihood", lambda c: c.likelihood in GAUSSIAN),
    "floor": ("likelihood gaussian-pixel", lambda c: c.likelihood == "gaussian-pixel"),
    "scale": ("likelihood laplace", lambda c: c.likelihood == "laplace"),
    "levels": ("likelihood categorical", lambda c: c.likelihood == "categorical"),
    "schedule": (
        "rate kl, kl-sampled or capacity",
        lambda c: c.rate in ("kl", "kl-sampled", "capacity"),
    ),
    "start": ("a schedule", lambda c: c.schedule != "constant"),
    "schedule_steps": ("a schedule", lambda c: c.schedule != "constant"),
    "cycles": ("schedule cyclical", lambda c: c.schedule == "cyclical"),
    "beta": ("rate kl, kl-sampled, tc or adversarial", lambda c: c.rate != "capacity"),
    "gamma": ("rate capacity", lambda c: c.rate == "capacity"),
    "capacity": ("rate capacity", lambda c: c.rate == "capacity"),
    "mutual_weight": ("rate tc", lambda c: c.rate == "tc"),
    "dimension_weight": ("rate tc", lambda c: c.rate == "tc"),
    "estimator": ("rate tc", lambda c: c.rate == "tc"),
    "lambda": ("a divergence", lambda c: c.divergence != "none"),
    "conv_critics": ("a critic of the data", lambda c: c.criticises_data),
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


def from_text(text: str, kinds: tuple[type, ...]) -> Any:
    """The value of a flag of these types, or the text where it is of none."""
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
