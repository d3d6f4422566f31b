"""Data, model and objective of a configuration."""

import math

import torch

from vae.config import Config
from vae.data import Data, load
from vae.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    PixelGaussianLikelihood,
    TokenLikelihood,
)
from vae.model import VAE
from vae.networks import (
    ConvCritic,
    GRUDecoder,
    GRUEncoder,
    ImplicitEncoder,
    conv_decoder,
    conv_encoder,
    mlp,
)
from vae.objectives import (
    DIVERGENCES,
    AdversarialKL,
    Anneal,
    Capacity,
    CodeCritic,
    Constant,
    Cyclical,
    DataCritic,
    Divergence,
    InfoVAE,
    Objective,
    Rate,
    SampledKL,
    Schedule,
    TotalCorrelation,
    WassersteinCritic,
    WeightedKL,
)
from vae.priors import LearnedGaussian, LearnedMixture, Prior, StandardNormal

MOST_WEIGHTS = 10**9


def load_data(config: Config) -> Data:
    """The data of a run.

    Raises:
        ValueError, FileNotFoundError: as `vae.data.load`.
    """
    c = config
    return load(
        c.data, root=c.root, heldout=c.heldout, seed=c.seed, binarise=c.binarise, size=c.size,
        limit=c.limit,
    )  # fmt: skip


def resolve(config: Config, data: Data) -> Config:
    """With what depends on data or machine filled in: λ, the length of schedules, threads."""
    changes: dict[str, float | int] = {}
    if config.lambda_ is None and config.divergence != "none":
        changes["lambda_"] = config.beta + default_weight(config, math.prod(data.shape))
    if config.threads is None:
        changes["threads"] = torch.get_num_threads() if config.network == "conv" else 1
    if config.conv_critics is None and config.criticises_data:
        changes["conv_critics"] = config.network == "conv"
    if config.schedule_steps is None and config.schedule != "constant":
        per_epoch = max(1, len(data.train) // config.batch_size)
        changes["schedule_steps"] = max(1, config.epochs * per_epoch // 2)
    return config.replace(**changes)


def default_weight(config: Config, n_pixels: int) -> float:
    """The weight of D where none is given, in nats; see the table of docs/vae.md.

    The weight is that of a pixel *mean*, converted: a mean squared error of 1 is D/2σ² nats (σ² is
    `Config.variance`, where it is learned its start), a mean absolute error of 1 is D/b, a mean
    cross entropy of 1 is D.
    """
    match config.likelihood:
        case "laplace":
            unit = 1 / config.scale
        case "bernoulli" | "categorical" | "tokens":
            unit = 1.0
        case _:
            unit = 1 / (2 * config.variance)
    by_divergence = {
        "mmd": unit * n_pixels,
        "energy": unit * n_pixels / 4,
        "imq": unit * 200,
        "sliced": unit * n_pixels,
        "critic": 1.0,
        "wasserstein": unit * n_pixels / 4,
    }
    return by_divergence[config.divergence.removesuffix("-normal")]


def build_model(config: Config, data: Data) -> VAE:
    """The untrained model of a resolved configuration; its weights depend on the seed alone.

    Raises:
        ValueError: networks that do not fit the data, or of more than a billion weights.
    """
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            weights = sum(p.numel() for p in _model(config, data).parameters())
        if weights > MOST_WEIGHTS:
            raise ValueError(
                f"for rows of shape {data.shape} the networks would have {weights:.2g} weights "
                f"({4e-9 * weights:.0f} GB): bring images to a smaller side with --size, or take "
                "--network conv or a smaller --hidden"
            )
        torch.default_generator.manual_seed(config.seed)
        return _model(config, data)


def _model(config: Config, data: Data) -> VAE:
    likelihood = _likelihood(config)
    n_in, dim = math.prod(data.shape), config.latent
    n_codes = 2 * dim if config.posterior == "gaussian" else dim
    encoder: torch.nn.Module
    decoder: torch.nn.Module
    if len(data.shape) != 3 and (config.network == "conv" or config.conv_critics):
        raise ValueError(
            f"convolutions need images, but a row of {data.name} has shape {data.shape}: "
            "take the mlp"
        )
    if data.text is not (config.likelihood == "tokens"):
        raise ValueError(
            f"{data.name} is {'' if data.text else 'not '}text: likelihood tokens is for text, and "
            "text needs it; see --preset sentence-vae"
        )
    if config.network != "mlp" and config.posterior == "implicit":
        raise ValueError("an implicit encoder is an mlp of x and noise: take --network mlp")
    if config.network == "conv":
        encoder = conv_encoder(data.shape, n_codes, config.hidden)
        decoder = conv_decoder(dim, data.shape, likelihood.channels, config.hidden)
    elif config.network == "gru":
        if not data.text or config.data_critic:
            raise ValueError(
                "network gru reads and writes text, --data FILE.txt, and passes no gradient from a "
                "critic of what it wrote: take another network, or no data critic"
            )
        encoder = GRUEncoder(n_codes, config.hidden)
        decoder = GRUDecoder(dim, n_in, config.hidden)
    else:
        widths = config.widths
        if config.posterior == "implicit":
            encoder = ImplicitEncoder(n_in, dim, widths)
        else:
            encoder = mlp(n_in, n_codes, widths)
        decoder = mlp(dim, likelihood.channels * n_in, widths[::-1])
    objective = build_objective(config, data.shape)
    return VAE(encoder, decoder, likelihood, objective, _prior(config), config.posterior)


def _likelihood(config: Config) -> Likelihood:
    match config.likelihood:
        case "gaussian":
            return GaussianLikelihood(config.variance)
        case "gaussian-learned":
            return GaussianLikelihood(config.variance, learned=True)
        case "gaussian-pixel":
            return PixelGaussianLikelihood(config.floor)
        case "bernoulli":
            return BernoulliLikelihood()
        case "laplace":
            return LaplaceLikelihood(config.scale)
        case "categorical":
            return CategoricalLikelihood(config.levels)
        case "tokens":
            return TokenLikelihood()


def _prior(config: Config) -> Prior:
    match config.prior:
        case "normal":
            return StandardNormal(config.latent)
        case "gaussian":
            return LearnedGaussian(config.latent)
        case "mixture":
            return LearnedMixture(config.latent, config.components)


def build_objective(config: Config, shape: tuple[int, ...]) -> Objective:
    """The objective of a resolved configuration for rows of a shape."""
    divergence = _divergence(config)
    n_in = math.prod(shape)
    critic = ConvCritic(shape, hidden=config.hidden) if config.conv_critics else None
    data_critic = DataCritic(n_in, critic) if config.data_critic else None
    plain = config.rate == "kl" and config.schedule == "constant" and data_critic is None
    if divergence is None:
        return Objective(_rate(config, shape), data_critic=data_critic)
    assert config.lambda_ is not None
    if plain:
        return InfoVAE(config.alpha, config.lambda_, divergence)
    weight = config.lambda_ - (config.beta if config.rate.startswith("kl") else 0.0)
    return Objective(_rate(config, shape), divergence, weight, data_critic)


def _rate(config: Config, shape: tuple[int, ...]) -> Rate:
    match config.rate:
        case "kl":
            return WeightedKL(_schedule(config, config.beta))
        case "kl-sampled":
            return SampledKL(_schedule(config, config.beta))
        case "capacity":
            return Capacity(config.gamma, _schedule(config, config.capacity))
        case "tc":
            return TotalCorrelation(
                config.mutual_weight,
                config.beta,
                config.dimension_weight,
                estimator=config.estimator,
            )
        case "adversarial":
            dim, hidden = config.latent, config.hidden
            critic = ConvCritic(shape, dim, hidden) if config.conv_critics else None
            return AdversarialKL(math.prod(shape), dim, config.beta, critic)


def _schedule(config: Config, final: float) -> Schedule:
    if config.schedule == "constant":
        return Constant(final)
    assert config.schedule_steps is not None
    if config.schedule == "cyclical":
        return Cyclical(config.start, final, config.schedule_steps, config.cycles)
    return Anneal(config.start, final, config.schedule_steps, config.schedule)


def _divergence(config: Config) -> Divergence | None:
    match config.divergence:
        case "none":
            return None
        case "critic":
            return CodeCritic(config.latent)
        case "wasserstein":
            return WassersteinCritic(config.latent, config.constraint)
        case name:
            return DIVERGENCES[name]
