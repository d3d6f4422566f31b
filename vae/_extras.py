"""Imports of the optional extra, with one message where a part is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRA = frozenset({"PIL", "lightning", "matplotlib", "sklearn", "tqdm", "yaml"})


@contextmanager
def needs_extra() -> Iterator[None]:
    """Around imports: a missing library of the extra names the extra that brings it.

    Raises:
        ModuleNotFoundError: with the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        message = f'{name} is not installed: pip install "divergences[vae]"'
        raise ModuleNotFoundError(message, name=name) from error
