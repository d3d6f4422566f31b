"""Metrics of torchmetrics, a callback of Lightning and an estimator of scikit-learn."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

import numpy as np
import pandas
import processes
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.image.kid import poly_mmd

from divergences import energy_distance, mmd2, two_sample_test
from divergences.callbacks import TwoSampleCallback
from divergences.drift import DriftDetector
from divergences.metrics import EnergyDistance, KernelInceptionDistance, SquaredMMD, TwoSampleTest


def samples(n: int = 40, m: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=generator), 0.5 + torch.randn(m, 3, generator=generator)


def metrics() -> dict[str, Any]:
    return {
        "mmd": SquaredMMD(bandwidth=1.0),
        "median": SquaredMMD("laplace", "median", estimator="biased"),
        "energy": EnergyDistance(exponent=1.5),
        "kid": KernelInceptionDistance(),
        "test": TwoSampleTest(test_options={"method": "energy", "n_resamples": 99}),
    }


def kid(x: Tensor, y: Tensor) -> Tensor:
    """By its definition, for any sizes."""
    n, m = len(x), len(y)
    k = (torch.cat([x, y]) @ torch.cat([x, y]).T / x.shape[1] + 1.0) ** 3
    of_x, of_y = ((p.sum() - p.trace()) / (len(p) ** 2 - len(p)) for p in (k[:n, :n], k[n:, n:]))
    return of_x + of_y - 2.0 * k[:n, n:].sum() / (n * m)


def expected(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    result = two_sample_test(x, y, method="energy", n_resamples=99, rng=0)
    return {
        "mmd": mmd2(x, y, bandwidth=1.0),
        "median": mmd2(x, y, kernel="laplace", bandwidth="median", estimator="biased"),
        "energy": energy_distance(x, y, exponent=1.5),
        "kid": kid(x, y),
        "statistic": torch.tensor(result.statistic).double(),
        "pvalue": torch.tensor(result.pvalue).double(),
        "effect_size": torch.tensor(result.effect_size).double(),
    }


def check(found: dict[str, Any], x: Tensor, y: Tensor) -> None:
    found = found | found.pop("test") if "test" in found else found
    for name, value in expected(x, y).items():
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=1e-7, check_dtype=False)


def test_batches_reset_and_collections() -> None:
    x, y = samples()
    collection = MetricCollection(metrics())
    for a, b in ((x[:7], y[:20]), (x[7:30], y[20:])):
        collection.update(a, b)
    collection.update(x=x[30:])
    check(collection.compute(), x, y)
    collection.reset()
    collection.update(x[:10], y[:10])
    check(collection.compute(), x[:10], y[:10])
    torch.testing.assert_close(kid(x[:30], y), poly_mmd(x[:30], y))  # what torchmetrics averages


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    x, y = samples()
    parts = ((slice(0, 15), slice(0, 21)), (slice(15, 40), slice(21, 30)))[rank]
    collection = MetricCollection(metrics())
    collection.update(x[parts[0]][:5], y[parts[1]])
    collection.update(x[parts[0]][5:])
    torch.save(collection.compute(), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)


def test_two_processes_with_unequal_rows(tmp_path: pathlib.Path) -> None:
    processes.spawn(worker, str(tmp_path), count=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        check(found, *samples())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metrics_refuse() -> None:
    metric = EnergyDistance()
    with pytest.raises(ValueError, match="two rows of x and of y are needed; got 0 and 0"):
        metric.compute()
    with pytest.raises(ValueError, match="rows of x, of y or of both; got neither"):
        metric.update()
    with pytest.raises(ValueError, match=r"x must have shape \[k, d\]; got \[3\]"):
        metric.update(torch.ones(3))
    metric.update(torch.ones(3, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="two rows of x and of y are needed; got 3 and 1"):
        metric.compute()


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(3.0))

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return (self.shift - batch.mean()).square()

    def validation_step(self, batch: Tensor, _: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.25)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and devices
def test_callback(tmp_path: pathlib.Path) -> None:
    """The shift of the samples is trained away; every second epoch logs how far it is."""
    x, y = samples(60, 60)
    y = y - 0.5
    seen: list[float] = []

    def drawn(module: LightningModule) -> tuple[Tensor, Tensor]:
        assert not torch.is_grad_enabled() and isinstance(module, Model)
        seen.append(float(module.shift))
        return x, y + module.shift

    callback = TwoSampleCallback(drawn, every=2, prefix="codes", method="energy", n_resamples=99)
    loader = DataLoader(torch.zeros(4, 1))  # type: ignore[arg-type]
    trainer = Trainer(
        max_epochs=4, callbacks=[callback], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Model(), loader, loader)
    assert len(seen) == 2 and seen[1] < 0.1 * seen[0]
    result = two_sample_test(x, y + seen[1], method="energy", n_resamples=99, rng=0)
    logged = {
        name: float(trainer.logged_metrics[f"codes/{name}"]) for name in ("statistic", "pvalue")
    }
    assert logged["pvalue"] == pytest.approx(result.pvalue, rel=1e-6)
    assert logged["statistic"] == pytest.approx(result.statistic, rel=1e-4)
    with pytest.raises(ValueError, match="every must be a number of epochs ≥ 1; got 0"):
        TwoSampleCallback(drawn, every=0)
    with pytest.raises(TypeError, match="samples must be a function of the module; got 3"):
        TwoSampleCallback(3)  # type: ignore[arg-type]


def test_drift_detector() -> None:
    r = np.random.default_rng(0)
    reference = pandas.DataFrame(r.normal(size=(60, 2)), columns=["a", "b"])
    same, moved = (pandas.DataFrame(r.normal(c, 1.0, (40, 2)), columns=["a", "b"]) for c in (0, 1))
    detector = DriftDetector("energy", n_resamples=99, random_state=0)
    with pytest.raises(NotFittedError):
        detector.score(same)
    assert detector.fit(reference) is detector
    assert detector.n_features_in_ == 2 and detector.feature_names_in_.tolist() == ["a", "b"]
    for batch, drifted in ((same, 0), (moved, 1)):
        expected = two_sample_test(reference, batch, method="energy", n_resamples=99, rng=0)
        assert detector.score(batch) == expected.pvalue
        assert detector.predict(batch).tolist() == [drifted] * 40
    with pytest.raises(ValueError, match="the columns differ"):
        detector.score(same[["b", "a"]])
    reference.iloc[:, :] = 9.0  # a copy was kept
    assert detector.score(same) > 0.05
    again = clone(detector).set_params(alpha=0.01)
    assert again.get_params()["alpha"] == 0.01 and not hasattr(again, "reference_")
    pipeline = make_pipeline(StandardScaler(), clone(detector)).fit(same)
    assert pipeline.predict(moved).all() and pipeline.score(same) == 1.0


@pytest.mark.parametrize(
    ("alpha", "rows", "message"),
    [
        (2.0, 5, r"alpha must lie in \(0, 1\); got 2.0"),
        (0.05, 1, "the reference needs at least two rows; got 1"),
    ],
)
def test_drift_detector_refuses(alpha: float, rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftDetector(alpha=alpha).fit(np.ones((rows, 2)))


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("metrics", "torchmetrics", "metrics"),
        ("callbacks", "lightning", "lightning"),
        ("drift", "sklearn", "sklearn"),
    ],
)
def test_what_is_missing_is_named(
    module: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.split(".")[0] == missing:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"divergences.{module}")
    with pytest.raises(ModuleNotFoundError, match=rf"divergences\[{extra}\]"):
        __import__(f"divergences.{module}")
