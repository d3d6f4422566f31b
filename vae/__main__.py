"""`python -m vae demo`."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vae.demo import LAMBDA, Config, run
from vae.objectives import DIVERGENCES


class _Parser(argparse.ArgumentParser):
    """An invalid argument gets one line rather than the usage and a line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of `Config`."""
    top = _Parser(prog="vae", description="Autoencoders of the InfoVAE family.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)
    demo = commands.add_parser(
        "demo",
        help="train on the digits and test whether generated ones differ from held-out ones",
    )
    add = demo.add_argument
    lambdas = ", ".join(f"{name}: {value:g}" for name, value in LAMBDA.items())
    add("--out", type=Path, help="folder of the figure (%(default)s)")
    add("--divergence", choices=list(DIVERGENCES), help="D(q(z)‖p(z)) (%(default)s)")
    add("--alpha", type=float, help="α: the KL has weight 1−α (%(default)s)")
    add("--lambda", type=float, dest="lambda_", help=f"λ: D has weight α+λ−1 ({lambdas})")
    add("--variance", type=float, help="σ² of the Gaussian likelihood (%(default)s)")
    add("--latent", type=int, help="number of latent dimensions (%(default)s)")
    add("--epochs", type=int, help="passes over the training data (%(default)s)")
    add("--resamples", type=int, help="permutations of each test (%(default)s)")
    add("--seed", type=int, help="of the split, the training and the tests (%(default)s)")
    demo.set_defaults(**{field.name: field.default for field in dataclasses.fields(Config)})
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 the extra is missing or the training diverged, 2 invalid argument or
    folder, 130 Ctrl-C."""
    arguments = vars(parser().parse_args(argv))
    arguments.pop("command")
    try:
        config = Config(**arguments)
    except ValueError as error:
        print(f"vae demo: {error}", file=sys.stderr)
        return 2
    try:
        run(config)
    except ModuleNotFoundError as error:
        print(f"vae demo: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"vae demo: {error}; nothing was written", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"vae demo: cannot write to {config.out}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"vae demo: {interrupt or 'interrupted'}; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
