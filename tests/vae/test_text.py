"""Text: its rows, GRUs that look at no byte too early, and a run from a file to its pictures."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from vae import GRUDecoder, GRUEncoder, TokenLikelihood, fit
from vae.__main__ import main
from vae.build import build_model, resolve
from vae.data import Data, load
from vae.data.text import as_text
from vae.figures import interpolations_figure, samples_figure, traversals_figure
from vae.presets import configure
from vae.runs import Run

LINES = [f"{a} {n} {v}s" for a in ("the", "a") for n in ("cat", "bär", "ox") for v in ("see", "go")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join([*LINES, "x" * 25]) + "\n", encoding="utf-8")
    return path


def test_rows_are_lines_cut_and_filled(file: Path) -> None:
    data = load(str(file), size=13, heldout=4)
    assert (data.shape, data.text, len(data.train)) == ((13,), True, 10)
    rows = torch.cat([data.rows("train"), data.rows("heldout")])
    assert sorted(as_text(rows)) == sorted([*LINES, "x" * 13, "x" * 12])
    assert load(str(file)).shape == (25,)  # the longest line
    assert as_text(torch.tensor([[0xC3, 0x41, 0, 0x42]]) / 255) == ["\ufffdA"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "has no lines"),
        (b"a\0b\n", "has zero bytes"),
        (b"\xff\xfe\n", "is not UTF-8 text"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "bad.txt"))


def test_text_and_what_reads_it_belong_together(file: Path) -> None:
    text, images = load(str(file)), load("digits")
    for data, changes, message in (
        (text, {"preset": "vae"}, "lines is text: .* text needs it"),
        (images, {"preset": "sentence-vae"}, "digits is not text"),
        (text, {"preset": "sentence-vae", "posterior": "implicit", "rate": "adversarial"},
         "take --network mlp"),
        (text, {"preset": "sentence-vae", "data_critic": True}, "passes no gradient"),
        (images, {"preset": "vae", "network": "gru"}, "network gru reads and writes text"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            build_model(resolve(configure(**changes), data), data)
    with pytest.raises(ValueError, match="cannot be binarised"):
        load(str(file), binarise="fixed")


def test_the_encoder_stops_at_the_end_of_a_line() -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(6, hidden=8)
    x = torch.randint(1, 256, (3, 9)) / 255
    x[1, 4:] = 0
    codes = encoder(x)
    torch.testing.assert_close(encoder(x[1:2, :4]), codes[1:2])
    changed = x.clone()
    changed[0, 0] = 1 - x[0, 0]
    assert (encoder(changed) != codes).any(1).tolist() == [True, False, False]


def test_a_byte_depends_on_the_bytes_before_it_and_on_z() -> None:
    torch.manual_seed(0)
    decoder = GRUDecoder(2, 6, hidden=8, dropout=0.9).eval()
    z, x = torch.randn(1, 2), torch.randint(1, 256, (1, 6)) / 255

    def logits(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return decoder(z, x).unflatten(1, (256, 6))

    before = logits(z, x)
    for t in range(6):
        changed = x.clone()
        changed[0, t] = 1 - x[0, t]
        moved = (logits(z, changed) != before).any(1)[0]
        assert moved.tolist() == [s > t for s in range(6)]
    assert (logits(z + 1, x) != before).any(1).all()
    decoder.train()
    assert not torch.equal(decoder(z, x), decoder(z, x))  # bytes are dropped


def test_probabilities_of_all_texts_add_to_one_and_draws_follow_them() -> None:
    """Two bytes of 256 each, all 65,536 of them; draws against the marginal of the second."""
    torch.manual_seed(0)
    decoder = GRUDecoder(1, 2, hidden=4).double().eval()
    torch.nn.init.normal_(decoder.head.weight, std=2)
    every = torch.tensor(list(itertools.product(range(256), repeat=2))).double() / 255
    z = torch.full((1, 1), 0.7, dtype=torch.float64)
    with torch.no_grad():
        log_p = TokenLikelihood().log_prob(every, decoder(z.expand(len(every), 1), every))
        assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-10)
        n = 4000
        drawn = decoder.generate(
            z.expand(n, 1), generator=torch.Generator().manual_seed(1), draw=True
        )
        most = decoder.generate(z, generator=None, draw=False)
    p = log_p.exp().view(256, 256)
    counts = torch.bincount((drawn[:, 1] * 255).round().long(), minlength=256) / n
    marginal = p.sum(0)
    assert float((counts - marginal).abs().max()) < 5 * math.sqrt(0.25 / n)
    first = int(p.sum(1).argmax())
    expected = torch.tensor([[first, int(p[first].argmax())]]) / 255
    torch.testing.assert_close(most, expected.double())


def test_tokens_have_no_order() -> None:
    """The most probable one, where an expected level would be between the two likely ones."""
    likelihood = TokenLikelihood()
    logits = torch.full((1, 256, 1), -50.0)
    logits[0, 10], logits[0, 200] = 1.0, 0.9
    assert float(likelihood.mean(logits.flatten(1))) * 255 == pytest.approx(10)
    x = torch.tensor([[200 / 255]])
    expected = 0.9 - math.log(math.exp(1.0) + math.exp(0.9))
    assert float(likelihood.log_prob(x, logits.flatten(1))) == pytest.approx(expected)


def test_a_run_learns_its_lines(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("\n".join(["ab", "cd"] * 60), encoding="utf-8")
    folder = tmp_path / "run"
    arguments = ["--preset", "sentence-vae", "--data", str(file), "--hidden", "16", "--latent", "2"]
    arguments += ["--epochs", "30", "--batch-size", "20", "--heldout", "20"]
    arguments += ["--learning-rate", "1e-2", "--out", str(folder), "--quiet"]
    assert main(["fit", *arguments]) == 0
    capsys.readouterr()
    out = tmp_path / "samples.txt"
    for flags in ([], ["--pixel-noise"]):
        assert main(["sample", str(folder), "--n", "40", "--out", str(out), *flags]) == 0
        lines = out.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 40
        assert sum(line in ("ab", "cd") for line in lines) >= 36
    assert main(["evaluate", str(folder), "--importance", "5", "--resamples", "19"]) == 0
    run = Run.open(folder)
    for figure in (samples_figure, traversals_figure, interpolations_figure):
        drawn = figure(run.model(), run.data, n=4)
        drawn.canvas.draw()
        assert any(text.get_text() in ("ab", "cd") for text in drawn.axes[0].texts)


def test_known_text_does_not_read_as_math() -> None:
    data = Data("odd", *(torch.full((4, 3), ord("$"), dtype=torch.uint8),) * 2, (3,), text=True)
    model = build_model(resolve(configure("sentence-vae", hidden=4, latent=2), data), data)
    samples_figure(model, data, n=2).canvas.draw()


class Stop:
    """Interrupts a training at its second check."""

    checks = 0

    def on_check(self, **_: object) -> None:
        self.checks += 1
        if self.checks == 2:
            raise KeyboardInterrupt


def test_a_resumed_training_drops_the_same_bytes(file: Path, tmp_path: Path) -> None:
    data = load(str(file), heldout=4)

    def train(folder: Path, **options: object) -> torch.nn.Module:
        config = configure("sentence-vae", hidden=4, latent=2, schedule_steps=2)
        model = build_model(config, data)
        arguments = {"epochs": 4, "batch_size": 4, "accelerator": "cpu", "progress": False}
        fit(model, data, folder=folder, **arguments, **options)
        return model

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "resumed", callbacks=[Stop()])
    resumed = train(tmp_path / "resumed", resume=True).state_dict()
    whole = train(tmp_path / "whole").state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
