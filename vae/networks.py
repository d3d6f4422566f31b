"""Encoders and decoders: MLPs, convolutions, and GRUs for text."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from divergences.critic import Critic

MOST_HALVINGS = 4
LEAST_SIDE = 4
CHANNELS = 32


def mlp(n_in: int, n_out: int, hidden: int | Sequence[int] = 300) -> nn.Sequential:
    """Linear(n_in, hidden) → ReLU → Linear(hidden, n_out), the textbook encoder and decoder; with
    several widths one hidden layer for each.

    The encoder of D pixels to M codes is ``mlp(D, 2 * M)``, its mirror image ``mlp(M, D)``.

    Examples:
        >>> import torch
        >>> from vae import mlp
        >>> mlp(784, 2 * 10, hidden=(300, 500))(torch.rand(8, 784)).shape
        torch.Size([8, 20])
    """
    widths = [n_in, *([hidden] if isinstance(hidden, int) else hidden)]
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))


class ImplicitEncoder(nn.Module):
    """z = net(x, ε): a q(z|x) that can be drawn from but has no density (AVB).

    Args:
        n_in: D, numbers of a row of x.
        dim: M, of z and of the noise ε ~ N(0, I).
        hidden: width, or widths.
    """

    def __init__(self, n_in: int, dim: int, hidden: int | Sequence[int] = 300) -> None:
        super().__init__()
        self.net = mlp(n_in + dim, dim, hidden)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """[B, …] and [B, M] to [B, M]."""
        z: Tensor = self.net(torch.cat([x.flatten(1), noise], 1))
        return z


def _halvings(height: int, width: int) -> int:
    """Number of times both sides can be halved and keep ``LEAST_SIDE`` pixels."""
    count = 0
    while (
        count < MOST_HALVINGS
        and height % 2 == width % 2 == 0
        and min(height, width) // 2 >= LEAST_SIDE
    ):
        height, width, count = height // 2, width // 2, count + 1
    return count


def conv_encoder(shape: Sequence[int], n_out: int, hidden: int = 256) -> nn.Sequential:
    """Strided 4×4 convolutions that double the channels and halve the sides, then an MLP.

    Args:
        shape: (C, H, W) of an image.
        n_out: numbers to return, 2M for a Gaussian q(z|x).
        hidden: width of the MLP.

    Returns:
        [B, C, H, W] or [B, C·H·W] to [B, n_out].

    Examples:
        >>> import torch
        >>> from vae import conv_encoder
        >>> conv_encoder((3, 32, 32), n_out=20)(torch.rand(8, 3 * 32 * 32)).shape
        torch.Size([8, 20])
    """
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, tuple(shape))]
    for i in range(_halvings(height, width)):
        layers += [nn.Conv2d(channels, CHANNELS << i, 4, stride=2, padding=1), nn.ReLU()]
        channels, height, width = CHANNELS << i, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), mlp(channels * height * width, n_out, hidden))


def conv_decoder(
    dim: int, shape: Sequence[int], channels: int = 1, hidden: int = 256
) -> nn.Sequential:
    """The mirror image of ``conv_encoder``: an MLP, then transposed convolutions.

    Args:
        dim: M, latent dimensions.
        shape: (C, H, W) of an image.
        channels: of the likelihood, per number of the data.
        hidden: width of the MLP.

    Returns:
        [B, M] to [B, channels·C·H·W].

    Examples:
        >>> import torch
        >>> from vae import conv_decoder
        >>> conv_decoder(10, (3, 32, 32))(torch.randn(8, 10)).shape
        torch.Size([8, 3072])
    """
    count = _halvings(shape[1], shape[2])
    if count == 0:
        return nn.Sequential(mlp(dim, channels * math.prod(shape), hidden))
    small = (CHANNELS << (count - 1), shape[1] >> count, shape[2] >> count)
    layers: list[nn.Module] = [mlp(dim, math.prod(small), hidden), nn.ReLU()]
    layers.append(nn.Unflatten(1, small))
    for i in reversed(range(count)):
        last = i == 0
        n_out = channels * shape[0] if last else CHANNELS << (i - 1)
        layers.append(nn.ConvTranspose2d(CHANNELS << i, n_out, 4, stride=2, padding=1))
        layers.append(nn.Flatten() if last else nn.ReLU())
    return nn.Sequential(*layers)


class ConvCritic(nn.Module):
    """Logits [B] of images beside codes: the convolutions of ``conv_encoder``, then an MLP of
    their features and the codes. 0 at the start.

    Args:
        shape: (C, H, W) of an image.
        dim: numbers of a code; 0 for images alone.
        hidden: number of features, and width of the MLP.
    """

    def __init__(self, shape: Sequence[int], dim: int = 0, hidden: int = 256) -> None:
        super().__init__()
        self.n_pixels = math.prod(shape)
        self.features = conv_encoder(shape, hidden, hidden)
        self.head = Critic(hidden + dim, (hidden,))

    def forward(self, rows: Tensor) -> Tensor:
        """[B, C·H·W + dim] to [B]."""
        x, codes = rows[:, : self.n_pixels], rows[:, self.n_pixels :]
        logits: Tensor = self.head(torch.cat([self.features(x), codes], 1))
        return logits


# --- Sequences -----------------------------------------------------------------------------------

TOKENS = 256  # the bytes; TOKENS itself is what a decoder reads in place of an unknown one
EMBEDDING = 32


def _tokens(x: Tensor) -> Tensor:
    return (x * (TOKENS - 1)).round().long()


class GRUEncoder(nn.Module):
    """The state of a GRU at the last byte of a row, then a linear map.

    Args:
        n_out: numbers to return, 2M for a Gaussian q(z|x).
        hidden: width of the state.
    """

    def __init__(self, n_out: int, hidden: int = 300) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, EMBEDDING)
        self.gru = nn.GRU(EMBEDDING, hidden, batch_first=True)
        self.head = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L] bytes divided by 255, filled with zeros, to [B, n_out]."""
        tokens = _tokens(x)
        states, _ = self.gru(self.embedding(tokens))
        place = torch.arange(x.shape[1], device=x.device)
        last = torch.where(tokens > 0, place, 0).amax(1)
        encoded: Tensor = self.head(states[torch.arange(len(x), device=x.device), last])
        return encoded


class GRUDecoder(nn.Module):
    """p(x|z) = Π_t p(x_t|x_<t, z): a GRU that reads z and the byte before (Bowman et al. 2016,
    arXiv:1511.06349). In training bytes that it reads are replaced by an unknown one at random
    (their word dropout), so that it cannot do without z.

    Args:
        dim: M, latent dimensions.
        length: L, bytes of a row.
        hidden: width of the state.
        dropout: share of the bytes that are replaced.
    """

    def __init__(self, dim: int, length: int, hidden: int = 300, dropout: float = 0.25) -> None:
        super().__init__()
        self.length, self.dropout = length, dropout
        self.embedding = nn.Embedding(TOKENS + 1, EMBEDDING)
        self.first = nn.Linear(dim, hidden)
        self.gru = nn.GRU(EMBEDDING + dim, hidden, batch_first=True)
        self.head = nn.Linear(hidden, TOKENS)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Logits [B, 256·L] of every byte of x [B, L], given those before it and z [B, M]."""
        read = _tokens(x).roll(1, 1)
        read[:, 0] = TOKENS
        if self.training:
            unknown = torch.rand(read.shape, device=read.device) < self.dropout
            read = torch.where(unknown, TOKENS, read)
        logits, _ = self._step(read, z, self.first(z).tanh().unsqueeze(0))
        return logits.transpose(1, 2).flatten(1)

    def generate(self, z: Tensor, *, generator: torch.Generator | None, draw: bool) -> Tensor:
        """[B, L] one byte after the other, drawn from p(x|z) or the most probable each time."""
        token, state = z.new_full((len(z), 1), TOKENS, dtype=torch.long), self.first(z).tanh()
        state, found = state.unsqueeze(0), []
        for _ in range(self.length):
            logits, state = self._step(token, z, state)
            shares = logits[:, 0].softmax(1)
            token = (
                torch.multinomial(shares, 1, generator=generator)
                if draw
                else shares.argmax(1, keepdim=True)
            )
            found.append(token)
        return torch.cat(found, 1).to(z.dtype) / (TOKENS - 1)

    def _step(self, read: Tensor, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, l, 256] behind each byte of [B, l], and the state."""
        beside = z.unsqueeze(1).expand(-1, read.shape[1], -1)
        states, state = self.gru(torch.cat([self.embedding(read), beside], 2), state)
        return self.head(states), state
