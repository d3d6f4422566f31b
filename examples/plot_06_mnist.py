"""
Are the autoencoder's samples and the data different?
=====================================================

An MMD-VAE is trained on digits, and its samples are tested against digits that it has not seen.
**What to see:** a look at the two grids does not tell; the test does, and the witness function
points at the images that the model makes too often and at those it misses.

The digits are the bundled 8×8 ones. ``python plot_06_mnist.py FOLDER`` takes the four IDX files
of MNIST, or of data in its format, from a folder instead.
"""

import sys

import matplotlib.pyplot as plt
import torch

from divergences import two_sample_test, witness
from divergences.kernels import Gaussian
from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, fit, load, mlp
from vae.evaluation import comparison_table
from vae.figures import image_grid

quick = "--quick" in sys.argv
folders = [argument for argument in sys.argv[1:] if argument != "--quick"]
data = load(folders[0] if folders else "digits")
epochs = 5 if quick else 20 if folders else 200

torch.manual_seed(0)
pixels = data.train.shape[1]
model = VAE(
    encoder=mlp(pixels, 2 * 10),
    decoder=mlp(10, pixels),
    likelihood=GaussianLikelihood(variance=1.0),
    objective=InfoVAE(alpha=1, lambda_=pixels / 2),
    prior=StandardNormal(10),
)
fit(model, data, epochs=epochs, accelerator="cpu", progress=False)

# %%
# As many samples as held-out images, half of which are kept for the control.

heldout = data.rows("heldout")[:2000]
half = len(heldout) // 2
real, other = heldout[:half], heldout[half:]
with torch.no_grad():
    samples = model.sample(half, generator=torch.Generator().manual_seed(0)).clamp(0, 1)
options = {"scale": None, "rng": 0, "n_resamples": 199 if quick else None}
tests = {
    "samples, unseen images": two_sample_test(samples, real, **options),
    "control: other unseen images": two_sample_test(other, real, **options),
}
print(comparison_table(tests))

# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
image_grid(axes[0], real[:100], "Unseen images", columns=10)
p = tests["samples, unseen images"].pvalue
image_grid(axes[1], samples[:100], f"Samples; p = {p:.4g}", columns=10)
plt.show()

# %%
# The witness f(t) = mean k(t, sample) − mean k(t, image) is largest where samples are too many.

kernel = Gaussian("median").resolve(samples, real)
often = witness(samples, samples, real, kernel=kernel).argsort(descending=True)
missed = witness(real, samples, real, kernel=kernel).argsort()
figure, axes = plt.subplots(1, 2, figsize=(9, 2.2), layout="constrained")
image_grid(axes[0], samples[often[:40]], "Samples that are made too often", columns=10)
image_grid(axes[1], real[missed[:40]], "Images that the model misses", columns=10)
plt.show()
