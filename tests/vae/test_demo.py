"""The demo from end to end, its exit codes, its figure, its data."""

from pathlib import Path

import demo
import pytest
import torch

from divergences.plots.style import new_figure, save_figure
from divergences.two_sample import two_sample_test
from vae.__main__ import main
from vae.data import digits, gaussian_mixture
from vae.evaluation import comparison_table
from vae.figures import class_plane

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("divergence", ["mmd", "energy", "mmd-normal"])
def test_from_data_to_verdict(
    divergence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    arguments = ["--epochs", "2", "--resamples", "99", "--divergence", divergence]
    assert demo.main(["--out", str(out), *arguments]) == 0
    text = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    for question, sizes in (
        ("Do generated digits differ from held-out ones?", ["300", "300"]),
        ("Control: do other held-out digits differ from them?", ["300", "300"]),
        ("Do codes of held-out digits differ from the prior?", ["600", "600"]),
    ):
        assert rows[question].removeprefix(question).split()[:2] == sizes
        assert rows[question].endswith(("they differ", "no difference found"))
    # two epochs teach nobody to write, and the permutation p-value of 99 is at least 1/100
    generated = rows["Do generated digits differ from held-out ones?"]
    assert "  0.010  they differ" in generated
    control = rows["Control: do other held-out digits differ from them?"]
    assert control.endswith("no difference found")
    assert [path.name for path in out.iterdir()] == ["demo.png"]
    picture = (out / "demo.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--latent", "1"], "latent must be at least 2, got 1"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--seed", "2147483648"], "seed must be between 0 and 2^31 - 1, got 2147483648"),
        (["--variance", "-1"], "the variance must be positive and finite, got -1.0"),
        (["--lambda", "-1"], "alpha + lambda - 1 must be at least 0"),
        (["--divergence", "kl"], "argument --divergence: invalid choice: 'kl' (choose from mmd"),
    ],
)
def test_an_invalid_argument_is_named_with_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(["--out", str(tmp_path / "out"), *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err.replace("'mmd'", "mmd")  # Python 3.11 quotes the choices
    assert error.splitlines()[-1].startswith(f"demo: error: {message}")
    assert not any((tmp_path / "out").glob("*"))


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        demo.main(["--out", str(tmp_path / "file")])
    assert caught.value.code == 2
    assert f"File exists: '{tmp_path}/file'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("demo", "examples/demo.py"),
        ("reproduce", "-m pytest -m slow tests/vae/test_known_outcomes.py"),
    ],
)
def test_moved_commands_name_their_example(
    name: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--all"]) == 2
    message = f"vae: `vae {name}` is deprecated: run `python {example}` in the repository\n"
    assert capsys.readouterr().err == message
    assert (Path(__file__).parents[2] / example.split()[-1]).exists()


def test_ctrl_c_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("training interrupted after 3 of 400 epochs")

    monkeypatch.setattr(demo, "fit", interrupted)
    assert demo.main(["--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == (
        "demo: training interrupted after 3 of 400 epochs; nothing was written\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_figure(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = new_figure(1, 1)
    figure.savefig = lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_effect_is_the_normalised_energy_distance() -> None:
    x, y = torch.zeros(30, 2), torch.zeros(30, 2)
    y[:, 0] = 4
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    apart, same = (
        two_sample_test(*samples, method="energy", n_resamples=99, rng=0)
        for samples in ((x, y), (noise[:30], noise[30:]))
    )
    assert apart.effect_size == pytest.approx(1)  # two point masses
    assert same.effect_size < 0.05
    header, rule, *lines = comparison_table({"Apart?": apart, "Or not?": same}).splitlines()
    assert len(rule) == max(map(len, [header, *lines]))
    assert lines[0].startswith("Apart?") and "  100.00%    0.010  they differ" in lines[0]
    assert lines[1].endswith("no difference found")


def test_digits_are_split_without_overlap() -> None:
    split = digits(seed=3)
    assert split.train.shape == (1197, 64)
    assert split.heldout.shape == (600, 64)
    assert float(split.train.min()) == 0
    assert float(split.train.max()) == 1
    assert len(torch.cat([split.train, split.heldout]).unique(dim=0)) == 1797
    assert set(split.heldout_labels.tolist()) == set(range(10))
    assert torch.equal(split.train, digits(seed=3).train)
    assert not torch.equal(split.train, digits(seed=4).train)


@pytest.mark.parametrize("heldout", [0, 1797])
def test_digits_need_both_parts(heldout: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1796"):
        digits(heldout=heldout)


def test_mixture_is_standardised_with_its_modes_in_place() -> None:
    split = gaussian_mixture(20_000, heldout=10)
    assert split.heldout.shape == (10, 2)
    torch.testing.assert_close(split.train.mean(0), torch.zeros(2), atol=0.03, rtol=0)
    torch.testing.assert_close(split.train.var(0), torch.ones(2), atol=0.03, rtol=0)
    mode = split.train[split.train_labels == 3]
    torch.testing.assert_close(mode.mean(0), torch.full((2,), 5 / 26**0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(mode.std(0), torch.full((2,), 1 / 26**0.5), atol=0.01, rtol=0)


def test_class_plane_keeps_the_prior_standard_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    z = 0.1 * torch.randn(60, 5, generator=generator)
    z[:, 2] += labels  # the classes are spread along the third axis
    z[:, 0] += 10  # which has nothing to do with where they all are
    plane = class_plane(z, labels)
    torch.testing.assert_close(plane.T @ plane, torch.eye(2))
    assert abs(float(plane[2, 0])) > 0.99
