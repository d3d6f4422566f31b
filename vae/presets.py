"""The named objectives: formula, source, and how their λ converts to nats per sample."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from vae.config import Config


@dataclass(frozen=True)
class Preset:
    """A named objective; ``settings`` are the fields of `Config` that it sets."""

    summary: str
    formula: str
    source: str
    settings: Mapping[str, Any]
    weights: str = ""  # where λ comes from, and its conversion to nats
    differs: str = field(default="")  # from the source, and why


DETERMINISTIC: Mapping[str, Any] = {"beta": 0.0, "posterior": "deterministic"}
# beside a KL σ² decides what a code is worth: at σ² = 1 the digits are worth none, and q(z|x) = p
LEARNED: Mapping[str, Any] = {"likelihood": "gaussian-learned", "variance": 0.1}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "autoencoder": Preset(
            "no prior: codes are not made to follow any law, and samples are not to be had",
            "−log p(x|z), z = a function of x",
            "Rumelhart, Hinton & Williams 1986; Hinton & Salakhutdinov 2006",
            {**DETERMINISTIC, "divergence": "none"},
        ),
        "vae": Preset(
            "the variational autoencoder",
            "−log p(x|z) + KL(q(z|x)‖p)",
            "Kingma & Welling 2014, arXiv:1312.6114",
            {**LEARNED, "beta": 1.0, "divergence": "none"},
        ),
        "beta-vae": Preset(
            "a constant weight on the KL",
            "−log p(x|z) + β·KL(q(z|x)‖p), β = 4",
            "Higgins et al. 2017, OpenReview Sy2fzU9gl",
            {**LEARNED, "beta": 4.0, "divergence": "none"},
            "β is a weight between nats and nats. At σ² it is the VAE of noise σ²β, up to scale.",
        ),
        "beta-anneal": Preset(
            "β that rises or cycles (--schedule cyclical)",
            "−log p(x|z) + β(t)·KL(q(z|x)‖p), β from 0 to 1 in the first half of the run",
            "Bowman et al. 2016, arXiv:1511.06349; cyclical: Fu et al. 2019, arXiv:1903.10145",
            {**LEARNED, "beta": 1.0, "divergence": "none", "schedule": "linear"},
        ),
        "sentence-vae": Preset(
            "a VAE of lines of text (--data FILE.txt), byte by byte",
            "−Σ log p(x_t|x_<t, z) + β(t)·KL(q(z|x)‖p), β from 0 to 1 in the first half of the run",
            "Bowman et al. 2016, arXiv:1511.06349",
            {
                "network": "gru",
                "likelihood": "tokens",
                "beta": 1.0,
                "divergence": "none",
                "schedule": "linear",
            },
            differs="GRUs of bytes for LSTMs of words; a quarter of the bytes read is dropped",
        ),
        "beta-falling": Preset(
            "β that falls: factors enter the code one after the other, the most useful first",
            "−log p(x|z) + β(t)·KL(q(z|x)‖p), β from 100 to 1 in the first half of the run",
            "Bowman et al. 2016, arXiv:1511.06349, turned round; Burgess et al. 2018, sec. 4",
            {**LEARNED, "beta": 1.0, "divergence": "none", "schedule": "cosine", "start": 100.0},
        ),
        "beta-capacity": Preset(
            "a target for the rate",
            "−log p(x|z) + γ·|KL(q(z|x)‖p) − C(t)|, C from 0 to 10 nats, γ = 100",
            "Burgess et al. 2018, arXiv:1804.03599, eq. 8",
            {
                **LEARNED,
                "rate": "capacity",
                "divergence": "none",
                "schedule": "linear",
                "capacity": 10.0,
                "gamma": 100.0,
            },
            "theirs: γ = 1000, C to 25 nats in 100,000 steps on 64×64 sprites.",
            "the KL is averaged over the batch before the absolute value",
        ),
        "beta-tcvae": Preset(
            "a weight on the total correlation alone",
            "−log p(x|z) + MI + β·TC + Σ_j KL(q(z_j)‖p_j), β = 6",
            "Chen et al. 2018, arXiv:1802.04942, eq. 4",
            {**LEARNED, "rate": "tc", "beta": 6.0, "divergence": "none"},
            differs="stratified sampling with its own two weights on the diagonal and beside it",
        ),
        "infovae": Preset(
            "the VAE and a divergence of the aggregate",
            "−log p(x|z) + (1−α)·KL(q(z|x)‖p) + (α+λ−1)·MMD²(q(z), p), α = 0",
            "Zhao, Song & Ermon 2019, arXiv:1706.02262, eq. 6",
            {**LEARNED, "beta": 1.0, "divergence": "mmd"},
            "α+λ−1 = D/2σ²: 1·MMD² beside a pixel-mean squared error.",
        ),
        "infovae-energy": Preset(
            "the same with the energy distance: no bandwidth",
            "−log p(x|z) + (1−α)·KL(q(z|x)‖p) + (α+λ−1)·E(q(z), p), α = 0",
            "Zhao, Song & Ermon 2019, eq. 6; Székely & Rizzo 2013",
            {**LEARNED, "beta": 1.0, "divergence": "energy"},
            "α+λ−1 = D/8σ²: the energy distance of codes is about four times the MMD².",
        ),
        "mmd-vae": Preset(
            "no KL at all",
            "−log p(x|z) + λ·MMD²(q(z), p), k = exp(−‖z−z'‖²/M)",
            "Zhao, Song & Ermon 2019, sec. 5 (α = 1)",
            {"beta": 0.0, "divergence": "mmd"},
            "λ = D/2σ²: 1·MMD² beside a pixel-mean squared error (392 for 28×28, 32 for digits).",
            "the authors' code: V-statistic of exp(−‖z−z'‖²/M²), in a batch least for narrow codes",
        ),
        "wae-mmd": Preset(
            "the Wasserstein autoencoder with an MMD",
            "−log p(x|z) + λ·MMD²(q(z), p), k = Σ_s C_s/(C_s + ‖z−z'‖²), C_s = 2Ms",
            "Tolstikhin et al. 2018, arXiv:1711.01558, algorithm 2",
            {**DETERMINISTIC, "divergence": "imq"},
            "theirs: .05·‖x−x̂‖² + 10·MMD², which is λ = 100/σ² beside ‖x−x̂‖²/2σ².",
        ),
        "aae": Preset(
            "a critic of codes: adversarial autoencoder, WAE-GAN",
            "−log p(x|z) + λ·KL(q(z)‖p), the KL ≈ −E_q logit C(z)",
            "Makhzani et al. 2015, arXiv:1511.05644; Tolstikhin et al. 2018, algorithm 1",
            {**DETERMINISTIC, "divergence": "critic", "variance": 0.05},
            "λ = 1, nats for nats: −log p and KL(q(z)‖p) are two of the three terms of the ELBO.",
            "−logit C rather than −log C, so that the term is a KL in nats",
        ),
        "avb": Preset(
            "a VAE whose q(z|x) is any network of x and noise",
            "−log p(x|z) + β·KL(q(z|x)‖p), the KL ≈ E_q T(x, z), β = 1",
            "Mescheder, Nowozin & Geiger 2017, arXiv:1701.04722, algorithm 1",
            {
                **LEARNED,
                "rate": "adversarial",
                "beta": 1.0,
                "posterior": "implicit",
                "divergence": "none",
                "critic_steps": 3,
            },
            differs="without adaptive contrast",
        ),
        "wae-critic": Preset(
            "Wasserstein-1 of codes, by a Lipschitz critic",
            "−log p(x|z) + λ·W₁(q(z), p), W₁ = sup E_p f − E_q f",
            "Arjovsky et al. 2017, arXiv:1701.07875; Gulrajani et al. 2017, arXiv:1704.00028",
            {**DETERMINISTIC, "divergence": "wasserstein", "critic_steps": 5},
            "W₁ is in units of z; λ = D/8σ² is our choice.",
            "the constraint is named: --constraint gradient-penalty, spectral or clip",
        ),
        "wae-sliced": Preset(
            "sliced Wasserstein-2 of codes, nothing to train",
            "−log p(x|z) + λ·SW₂²(q(z), p), 50 lines",
            "Kolouri et al. 2018, arXiv:1804.01947",
            {**DETERMINISTIC, "divergence": "sliced"},
            "in squared units of z; λ = D/2σ² is our choice.",
        ),
        "alpha-gan": Preset(
            "critics of codes and of images",
            "encoder ‖x−x̂‖₁/b − logit C(z), decoder ‖x−x̂‖₁/b − logit D(x̂) − logit D(x̃)",
            "Rosca et al. 2017, arXiv:1706.04987",
            {
                **DETERMINISTIC,
                "divergence": "critic",
                "likelihood": "laplace",
                "scale": 0.1,
                "data_critic": True,
            },
            "the weight of the L1 term is 1/b, a Laplace likelihood's rate.",
            "both fakes count half each, so that the logit is that of data against their mixture",
        ),
    }
)


def configure(preset: str = "mmd-vae", **changes: Any) -> Config:
    """The configuration of a preset with some settings changed; ``alpha`` sets β = 1 − α.

    Raises:
        ValueError: an unknown preset (the nearest names are suggested) or setting, a value outside
            its range, one that has no effect beside the others, or both alpha and beta.

    Examples:
        >>> from vae.presets import configure
        >>> configure("beta-vae", beta=8.0, data="digits").beta
        8.0
    """
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=2, cutoff=0.55)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(PRESETS)}"
        raise ValueError(f"unknown preset {preset!r}; {hint}")
    if "alpha" in changes:
        if "beta" in changes:
            raise ValueError("give alpha or beta = 1 − alpha, not both")
        changes["beta"] = 1 - changes.pop("alpha")
    changes = {name.rstrip("_"): value for name, value in changes.items()}
    plain = {f.name.rstrip("_"): f.default for f in fields(Config)} | dict(PRESETS[preset].settings)
    config = Config.from_dict({**plain, **changes, "preset": preset})
    config.check_used(name for name, value in changes.items() if value != plain[name])
    return config
