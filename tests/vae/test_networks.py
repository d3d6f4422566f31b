"""Shapes, parameters and refusals of the networks."""

import math

import pytest
import torch
from torch import nn

from vae import ConvCritic, ImplicitEncoder, conv_decoder, conv_encoder, mlp


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_textbook_mlp() -> None:
    net = mlp(784, 20)
    assert count(net) == 784 * 300 + 300 + 300 * 20 + 20
    x = torch.randn(4, 784)
    first, last = net[0], net[2]
    by_hand = (x @ first.weight.T + first.bias).clamp_min(0) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), by_hand)


@pytest.mark.parametrize(
    ("shape", "halvings"),
    [
        ((1, 28, 28), 2),  # 28 → 14 → 7
        ((1, 32, 32), 3),  # … → 4
        ((3, 64, 64), 4),
        ((3, 128, 128), 4),  # no more than four
        ((1, 8, 8), 1),
        ((2, 16, 24), 2),  # the shorter side decides
        ((1, 7, 9), 0),  # an odd side is not halved
        ((1, 4, 4), 0),
        ((1, 1, 1), 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 2])
def test_images_there_and_back(shape: tuple[int, ...], halvings: int, channels: int) -> None:
    torch.manual_seed(0)
    encoder, decoder = conv_encoder(shape, 6), conv_decoder(3, shape, channels)
    x = torch.randn(2, *shape)
    code = encoder(x)
    assert code.shape == (2, 6)
    torch.testing.assert_close(encoder(x.flatten(1)), code)
    decoded = decoder(torch.randn(2, 3))
    assert decoded.shape == (2, channels * math.prod(shape))
    for net, kind in ((encoder, nn.Conv2d), (decoder, nn.ConvTranspose2d)):
        assert sum(isinstance(layer, kind) for layer in net.modules()) == halvings
        net(
            torch.randn(2, *shape) if net is encoder else torch.randn(2, 3)
        ).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_decoded_channels_lie_one_block_after_the_other() -> None:
    """As the likelihoods read them: all means, then all scales."""
    decoder = conv_decoder(3, (1, 8, 8), channels=2)
    last = next(m for m in reversed(list(decoder)) if isinstance(m, nn.ConvTranspose2d))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, -1.0]))
    decoded = decoder(torch.randn(2, 3))
    assert (decoded[:, :64] == 1).all()
    assert (decoded[:, 64:] == -1).all()


def test_an_implicit_encoder_sees_data_and_noise() -> None:
    torch.manual_seed(0)
    encoder = ImplicitEncoder(12, 3)
    x, noise = torch.randn(4, 1, 3, 4), torch.randn(4, 3)
    z = encoder(x, noise)
    assert z.shape == (4, 3)
    assert not torch.allclose(encoder(x, noise + 1), z)
    assert not torch.allclose(encoder(x + 1, noise), z)
    assert torch.equal(encoder(x, noise), z)


def test_a_convolutional_critic_sees_images_and_codes() -> None:
    torch.manual_seed(0)
    critic = ConvCritic((1, 8, 8), dim=2, hidden=16)
    rows = torch.randn(5, 66)
    assert torch.equal(critic(rows), torch.zeros(5))  # untrained, it cannot tell
    for parameter in critic.head.parameters():
        nn.init.normal_(parameter)
    logits = critic(rows)
    for column in (3, 65):  # a pixel of the second row, and a number of its code
        changed = rows.clone()
        changed[1, column] += 1
        assert (critic(changed) != logits).tolist() == [False, True, False, False, False]
    shifted = torch.zeros(2, 64).view(2, 8, 8)
    shifted[0, 2, 2], shifted[1, 4, 4] = 1.0, 1.0  # by the stride: the same features, moved
    maps = critic.features[:4](shifted.flatten(1))
    torch.testing.assert_close(maps[0, :, :3, :3], maps[1, :, 1:, 1:])
