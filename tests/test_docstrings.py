"""Examples in docstrings: public functions and classes have one, and all of them run."""

from __future__ import annotations

import dataclasses
import doctest
import inspect

import pytest
import torch
from test_site import documented, resolve

ALL = {name: resolve(name) for name in sorted(documented())}
PUBLIC = {
    name: thing for name, thing in ALL.items() if inspect.isroutine(thing) or inspect.isclass(thing)
}
WITHOUT = {
    "divergences.distributed.gather_rows",  # needs several processes
    # parts of others, for who builds on them
    "divergences.density_ratio.FittedCritic", "divergences.density_ratio.fit_critic",
    "divergences.density_ratio.folds", "divergences.density_ratio.train_critic",
    "divergences.kl.promoted", "divergences.kl.shapes",
}  # fmt: skip
EXAMPLES = [name for name, thing in PUBLIC.items() if ">>>" in (thing.__doc__ or "")]


def is_result(thing: object) -> bool:
    """What functions return and nobody makes."""
    made = inspect.isclass(thing) and issubclass(thing, tuple)
    return made or dataclasses.is_dataclass(thing)


def test_public_names_have_examples() -> None:
    needed = {
        name
        for name, thing in PUBLIC.items()
        if name.startswith("divergences.")
        and not name.startswith("divergences.naive.")  # formulas
        and not is_result(thing)
    }
    missing = needed - set(EXAMPLES) - WITHOUT
    assert not missing, f"without an example in the docstring: {sorted(missing)}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    """What they print is what stands there, whatever the global generator has been used for."""
    thing = inspect.unwrap(ALL[name])  # type: ignore[arg-type]
    found = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", {}, name, None, None)
    assert 1 <= len(found.examples) <= 9
    said: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        doctest.DocTestRunner().run(found, out=said.append)
    assert not said, "".join(said)
