"""The command line: a run from beginning to end, what it writes, and how it refuses."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from divergences import __version__
from vae.__main__ import main
from vae.command.line import COMMANDS
from vae.command.running import _row_number
from vae.presets import PRESETS
from vae.runs import Run, read_settings
from vae.training.checkpoints import locked

PNG = b"\x89PNG"
SHORT = ["--epochs", "2", "--latent", "2", "--hidden", "8", "--limit", "300", "--heldout", "60"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(["fit", "--preset", "vae", *SHORT, "--out", str(folder), "--quiet"]) == 0
    return folder


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert main(arguments) == code
    output, error = capsys.readouterr()
    assert output == ""
    assert error.count("\n") == 1
    return error


def test_a_run_holds_everything(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names == {
        ".lock", "config.yaml", "versions.json", "metrics.csv", "checkpoints/best.ckpt",
        "checkpoints/last.ckpt", "figures/curves.png", "figures/samples.png",
        "figures/reconstructions.png",
    }  # fmt: skip
    versions = json.loads((run / "versions.json").read_text())
    assert versions["divergences"] == __version__
    assert torch.__version__.startswith(versions["torch"])  # the distribution may leave +cu126 out
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["preset"], config["latent"], config["likelihood"]) == (
        "vae", 2, "gaussian-learned",
    )  # fmt: skip
    assert config["schedule_steps"] is None  # there is no schedule
    assert config["threads"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "99", "--devices", "2"], "batch_size must be a multiple of devices"),
        (["--precision", "7-bit"], "7-bit"),
        (["--hidden", "100000000"], "would have .* weights"),
    ],
)
def test_a_refused_training_claims_no_folder(
    flags: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does it replace what is there."""
    error = error_of(["fit", *SHORT, *flags, "--out", str(tmp_path / "new")], capsys)
    assert re.search(message, error)
    assert not (tmp_path / "new").exists()
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    error_of(["fit", *SHORT, *flags, "--out", str(run), "--overwrite"], capsys)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_folder_in_use_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    with locked(run):
        for arguments in (["resume", str(run)], ["fit", *SHORT, "--out", str(run), "--overwrite"]):
            assert main([*arguments, "--quiet"]) == 2
            assert f"another process trains in {run}" in capsys.readouterr().err
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_pictures_too_large_for_the_networks_name_the_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        Image.new("L", (2000, 2000)).save(tmp_path / f"{i}.png")
    error = error_of(["fit", "--data", str(tmp_path), "--out", str(tmp_path / "out")], capsys)
    assert "rows of shape (1, 2000, 2000)" in error
    assert "--size" in error


def test_numbers_in_yaml_may_have_an_exponent_alone(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("learning_rate: 1e-3\nvariance: 2E2\nlatent: 3\n")
    assert read_settings(path) == {"learning_rate": 1e-3, "variance": 200.0, "latent": 3}


def test_a_run_is_repeated_from_its_folder_alone(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    config = str(run / "config.yaml")
    assert main(["fit", "--config", config, "--out", str(again), "--quiet"]) == 0
    assert (again / "config.yaml").read_text() == (run / "config.yaml").read_text()
    first, second = (Run.open(folder).model("last").state_dict() for folder in (run, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_flag_overrides_the_file_and_the_preset(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    flags = ["--config", str(run / "config.yaml"), "--batch-size", "50", "--beta", "3"]
    assert main(["fit", *flags, "--out", str(out), "--quiet"]) == 0
    config = Run.open(out).config
    assert (config.batch_size, config.beta, config.latent) == (50, 3.0, 2)
    assert "β = 1−α = 3 " in Run.open(out).model().weights()


def test_settings_can_be_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--preset",
        "aae",
        "--learning-rate",
        "1e-2",
        "--patience",
        "null",
        "--compile",
        "true",
    ]
    assert main(["fit", *flags, "--out", str(tmp_path / "run"), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["learning_rate"] == 0.01
    assert (printed["compile"], printed["patience"], printed["divergence"]) == (
        True,
        None,
        "critic",
    )
    assert not (tmp_path / "run").exists()


def test_alpha_is_another_word_for_beta(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--preset", "infovae", "--alpha", "0.5", "--lambda", "9", *SHORT]
    assert main(["fit", *flags, "--out", str(out), "--quiet"]) == 0
    assert "β = 1−α = 0.5 on KL, λ = 9 (α+λ−1 = 8.5 on mmd)" in Run.open(out).model().weights()


def test_evaluate_writes_one_json_and_one_page(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--importance", "5", "--resamples", "19", "--max-rows", "60"]
    assert main(["evaluate", str(run), *options, "--json"]) == 0
    printed = capsys.readouterr().out
    written = json.loads((run / "evaluation.json").read_text())
    assert json.loads(printed) == written
    assert written["heldout"]["elbo"] < 0
    assert (run / "figures" / "evaluation.png").read_bytes().startswith(PNG)
    assert main(["evaluate", str(run), *options]) == 0
    assert "IWAE-5" in capsys.readouterr().out


def test_evaluate_prints_before_it_writes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be written does not cost the measurements; another may be named."""
    options = ["evaluate", str(run), "--importance", "5", "--resamples", "19", "--max-rows", "60"]
    before = (run / "evaluation.json").read_text() if (run / "evaluation.json").exists() else None
    (tmp_path / "file").touch()
    assert main([*options, "--out", str(tmp_path / "file")]) == 2
    assert "IWAE-5" in capsys.readouterr().out
    assert main([*options, "--out", str(tmp_path / "deep" / "out")]) == 0
    found = sorted(path.name for path in (tmp_path / "deep" / "out").iterdir())
    assert found == ["evaluation.json", "evaluation.png"]
    after = (run / "evaluation.json").read_text() if (run / "evaluation.json").exists() else None
    assert after == before


@pytest.mark.parametrize("name", ["sample", "reconstruct", "traverse", "interpolate"])
def test_pictures(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / f"{name}.png"
    assert main([name, str(run), "--n", "2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(PNG)
    assert capsys.readouterr().out.strip() == str(out)


def test_numbers_instead_of_pictures(run: Path, tmp_path: Path) -> None:
    samples, pairs = tmp_path / "samples.npy", tmp_path / "pairs.npy"
    assert main(["sample", str(run), "--n", "5", "--out", str(samples), "--seed", "3"]) == 0
    assert main(["reconstruct", str(run), "--n", "4", "--out", str(pairs)]) == 0
    assert np.load(samples).shape == (5, 1, 8, 8)
    rows = np.load(pairs)
    assert rows.shape == (2, 4, 1, 8, 8)
    heldout = Run.open(run).data.rows("heldout").reshape(-1, 1, 8, 8).numpy()
    assert all((row == heldout).all((1, 2, 3)).any() for row in rows[0])


def test_compare_tells_noise_from_digits(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "energy", "--resamples", "99"]
    assert main(["compare", str(run), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["generated"]["pvalue"] == 0.01
    assert found["control"]["pvalue"] > 0.05
    assert (run / "figures" / "comparison.png").read_bytes().startswith(PNG)
    assert main(["compare", str(run), *options]) == 0
    text = capsys.readouterr().out
    assert "they differ" in text
    assert "no difference found" in text


def test_latent_spaces_of_runs(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    labels = Run.open(run).data.heldout_labels.tolist()
    for flags in ([], [str(run)], ["--rows", "0", "class-3"], [str(run), "--rows", "1", "2"]):
        assert main(["latent", str(run), *flags]) == 0
        assert capsys.readouterr().out == f"{run / 'figures' / 'latent.png'}\n"
        assert (run / "figures" / "latent.png").read_bytes().startswith(PNG)
    assert _row_number(Run.open(run).data, "class-3") == labels.index(3)
    for row, message in (
        ("99", "rows must be between 0 and 59, got 99"),
        ("three", "--rows takes numbers of held-out rows, or class-K, got 'three'"),
        ("class-77", "digits has no held-out row of class 77"),
    ):
        assert message in error_of(["latent", str(run), "--rows", row], capsys)
    other = tmp_path / "other"
    assert main(["fit", *SHORT, "--seed", "1", "--out", str(other), "--quiet"]) == 0
    capsys.readouterr()
    error = error_of(["latent", str(run), str(other), "--rows", "1"], capsys)
    assert "need the same held-out rows" in error


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(PRESETS)]] == list(PRESETS)
    assert main(["presets", "avb"]) == 0
    text = capsys.readouterr().out
    assert "arXiv:1701.04722" in text
    assert "--posterior implicit" in " ".join(text.split())


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"vae {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "vae: unknown command 'train'; one of fit, resume"),
        (["fit", "--preset", "mdm-vae"], "unknown preset 'mdm-vae'; did you mean mmd-vae"),
        (
            ["presets", "nothing like it"],
            "unknown preset 'nothing like it'; known: autoencoder, vae, beta-vae",
        ),
        (["fit", "--latent", "x"], "latent must be an integer, got 'x'"),
        (["fit", "--lambda", "x"], "lambda must be a number or null, got 'x'"),
        (["fit", "--latent", "0"], "latent must be at least 1, got 0"),
        (["fit", "--divergence", "mdm"], "divergence must be one of none, mmd"),
        (["fit", "--latnt", "3"], "unrecognized arguments: --latnt 3"),
        (["fit", "--alpha", "0.5", "--beta", "0.7"], "give alpha or beta = 1 − alpha"),
        (["fit", "--compile", "maybe"], "compile must be true or false, got 'maybe'"),
        (["sample", "run", "--n", "0"], "--n must be at least 1, got 0"),
        (["fit", "--preset", "vae", "--lambda", "5"], "lambda has no effect here: it needs a div"),
        (["fit", "--gamma", "5"], "gamma has no effect here: it needs rate capacity"),
        (["fit", "--data", "nix.npy"], "nix.npy"),
        (["fit", "--data", "digts"], "digits"),
        (["fit", "--config", "nix.yaml"], "nix.yaml"),
        (["fit", "--preset", "mmd-vae", "--lambda", "-1"], "alpha + lambda - 1 must be at least 0"),
        (["evaluate", "nix"], "nix does not hold a run"),
        (["resume", "nix"], "nix does not hold a run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line_and_write_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_of(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_replaced_by_accident(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    error = error_of(["fit", *SHORT, "--out", str(run)], capsys)
    assert "holds a run: `resume` it, name another folder with --out" in error
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_overwrite_replaces_it_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    quiet = ["--out", str(out), "--quiet"]
    assert main(["fit", "--preset", "vae", *SHORT, *quiet]) == 0
    (out / "notes.txt").write_text("mine")
    assert main(["fit", "--preset", "aae", *SHORT, *quiet, "--overwrite"]) == 0
    assert Run.open(out).config.preset == "aae"
    assert Run.open(out).model().objective.adversarial
    assert (out / "notes.txt").read_text() == "mine"


def copy(run: Path, folder: Path) -> Path:
    """Enough of a run to be opened."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "versions.json", "metrics.csv", "checkpoints/best.ckpt"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def test_settings_of_another_version(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(run, tmp_path / "other")
    versions = json.loads((other / "versions.json").read_text()) | {"divergences": "9.9"}
    (other / "versions.json").write_text(json.dumps(versions))
    with (other / "config.yaml").open("a") as file:
        file.write("teleport: true\n")
    error = error_of(["evaluate", str(other)], capsys)
    assert f"(written by divergences 9.9, this is {__version__}): unknown settings" in error
    assert "teleport" in error


def test_a_misspelt_setting_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: vae\nlatnt: 3\n")
    error = error_of(["fit", "--config", str(path), "--out", str(tmp_path / "run")], capsys)
    assert f"{path}: unknown settings: latnt (did you mean latent?)" in error


@pytest.mark.filterwarnings("default")
def test_data_of_another_scale_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", 20 * np.random.default_rng(0).normal(size=(80, 5)))
    flags = ["--heldout", "20", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["fit", "--data", str(tmp_path / "rows.npy"), *SHORT, *flags]) == 0
    assert "a variance of 377 on average, σ² is 1" in capsys.readouterr().err
    assert main(["fit", *SHORT, "--out", str(tmp_path / "digits"), "--quiet"]) == 0
    assert "variance" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["- 1\n", "{", "\x00"], ids=["list", "torn", "binary"])
def test_a_broken_configuration(
    content: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(run, tmp_path / "other")
    (other / "config.yaml").write_text(content)
    assert "config.yaml" in error_of(["sample", str(other)], capsys)


def test_a_broken_or_missing_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(run, tmp_path / "other")
    path = other / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    assert "best.ckpt" in error_of(["sample", str(other)], capsys)
    path.unlink()
    assert "best.ckpt" in error_of(["sample", str(other)], capsys)


def test_a_run_whose_checkpoint_is_gone_is_not_begun_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(run, tmp_path / "other")
    assert "last.ckpt is missing, though metrics.csv" in error_of(["resume", str(other)], capsys)


def test_a_name_is_not_taken_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert main(["fit", "--preset", "vae", *SHORT, "--out", "run", "--quiet"]) == 0
    assert Run.open(Path("run")).config.data == "digits"


@pytest.mark.filterwarnings("default")
def test_the_weights_are_printed_whatever_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ["--quiet", "--out", str(tmp_path / "run")]
    assert main(["fit", "--beta", "-1", "--lambda", "9", *SHORT, *quiet]) == 0
    output, error = capsys.readouterr()
    assert "β = 1−α = -1 on KL, λ = 9 (α+λ−1 = 10 on mmd), σ² = 1; nats per sample" in output
    assert error.count("the KL has a weight of -1 < 0") == 1


def test_changed_data_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "run"
    fit = ["fit", "--data", str(tmp_path / "rows.npy"), *SHORT, "--heldout", "20"]
    assert main([*fit, "--out", str(out), "--quiet"]) == 0
    np.save(tmp_path / "rows.npy", rows + 1)
    capsys.readouterr()
    assert "its rows have changed" in error_of(["sample", str(out)], capsys)


def test_data_outside_the_support(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "rows.npy", np.full((80, 5), 2.0, dtype=np.float32))
    fit = ["fit", "--data", str(tmp_path / "rows.npy"), "--likelihood", "bernoulli", "--quiet"]
    error = error_of([*fit, *SHORT, "--heldout", "20", "--out", str(tmp_path / "run")], capsys)
    assert "a Bernoulli likelihood needs values in [0, 1], got [2, 2]" in error


def test_ctrl_c_and_resume(tmp_path: Path) -> None:
    """The interrupted run says how to go on; resumed, it equals the one that was left alone."""
    long = ["--epochs", "80", "--latent", "2", "--hidden", "8", "--limit", "300"]
    command = [sys.executable, "-m", "vae", "fit", *long, "--heldout", "60", "--out"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    inherited = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job may ignore it
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, inherited)
    while not (out / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert "resume" in error
    assert "Traceback" not in error
    assert main(["resume", str(out), "--quiet"]) == 0
    assert main(["fit", *long, "--heldout", "60", "--out", str(whole), "--quiet"]) == 0
    first, second = (Run.open(folder).model("last").state_dict() for folder in (out, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_write_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--devices", "2", "--accelerator", "cpu", "--out", str(out)]
    command = [sys.executable, "-m", "vae", "fit", *SHORT, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rows to train on") == 1
    assert done.stdout.count("next:") == 1
    assert "deprecated" not in done.stderr
    assert (out / "figures" / "curves.png").read_bytes().startswith(PNG)
    assert len((out / "metrics.csv").read_text().splitlines()) == 3
