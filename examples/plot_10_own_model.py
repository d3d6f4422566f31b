"""
As an objective of your own model
=================================

An MMD to N(0, I) turns any autoencoder into one that can be sampled from. Here a small
convolutional network, once in a plain PyTorch loop, once as a Lightning module. **What to see:**
one added term, and draws from N(0, I) decode to digits; loop and module end in the same weights.
"""

import sys

import lightning
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader

from divergences import mmd2_to_normal, two_sample_test
from vae.data import digits
from vae.figures import image_grid, latent_space

data = digits()
epochs = 2 if "--quick" in sys.argv else 60


def networks():
    torch.manual_seed(0)
    image, small = nn.Unflatten(1, (1, 8, 8)), nn.Unflatten(1, (32, 4, 4))
    down, up = nn.Conv2d(1, 32, 4, 2, 1), nn.ConvTranspose2d(32, 1, 4, 2, 1)
    encoder = nn.Sequential(image, down, nn.ReLU(), nn.Flatten(), nn.Linear(512, 2))
    return encoder, nn.Sequential(nn.Linear(2, 512), nn.ReLU(), small, up, nn.Flatten())


# %%
# A plain loop. ``mmd2_to_normal(z)`` compares the codes with N(0, I) itself, without a sample of
# it; for another prior it is ``MMDLoss()(z, draws)``.

encoder, decoder = networks()
rows = DataLoader(data.train, batch_size=100, shuffle=True)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 2e-3)
for _ in range(epochs):
    for x in rows:
        z = encoder(x)
        loss = ((decoder(z) - x) ** 2).sum(1).mean() + 20 * mmd2_to_normal(z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %%
# The same as a Lightning module.


class Autoencoder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = networks()

    def training_step(self, x):
        z = self.encoder(x)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + 20 * mmd2_to_normal(z)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 2e-3)


module = Autoencoder()
lightning.Trainer(max_epochs=epochs, accelerator="cpu", barebones=True).fit(module, rows)

# %%

figure, axes = plt.subplots(2, 2, figsize=(8, 7.4), layout="constrained")
noise = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
parts = {"Plain loop": (encoder, decoder), "Lightning": (module.encoder, module.decoder)}
for row, (name, (encode, decode)) in zip(axes, parts.items(), strict=True):
    codes, samples = encode(data.heldout).detach(), decode(noise).detach().clamp(0, 1)
    test = two_sample_test(samples, data.heldout, scale=None, rng=0)
    print(f"{name}: effect {test.effect_size:.2%}, p = {test.pvalue:.4f}")
    latent_space(row[0], codes, data.heldout_labels, f"{name}: codes")
    image_grid(row[1], samples[:64], f"{name}: decoded draws from N(0, I)")
plt.show()
