"""Small experiments with a known outcome: measured against expected.

    python examples/reproduce [NAME …] [--all]

Without a name it lists the experiments. Each takes at most two minutes of one core and gives the
same numbers in every run on one machine.
"""

import argparse

from experiments import EXPERIMENTS, reproduce

parser = argparse.ArgumentParser(prog="reproduce", description=__doc__.splitlines()[0])
parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
parser.add_argument("--all", action="store_true", help="all of them")
arguments = parser.parse_args()

if arguments.names or arguments.all:
    try:
        print(reproduce(list(EXPERIMENTS) if arguments.all else arguments.names))
    except ValueError as error:
        parser.error(str(error))
else:
    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        print(f"{name:<{width}}  {experiment.summary} ({experiment.minutes:g} min)")
    print("\nRun some with: python examples/reproduce NAME …, or all with --all")
