"""Lines of text as rows of bytes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae.data.data import Data
from vae.data.split import Split, divided

LENGTH = 64  # bytes of a row, unless the longest line has fewer
END = 0  # fills a row behind its line


def text_file(path: Path, split: Split, *, size: int | None) -> Data:
    """The lines of a UTF-8 file, without empty ones, as bytes.

    Args:
        path: of the file.
        split: into rows to train on and to hold out.
        size: bytes of a row: shorter lines are filled with zeros, longer ones cut into several
            rows; None for the longest line, at most 64.

    Raises:
        ValueError: no lines, zero bytes or bytes that are not UTF-8.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    if END in content:
        raise ValueError(f"{path} is not text: it has zero bytes")
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines of text")
    if size is None:
        size = min(max(map(len, lines)), LENGTH)
    pieces = [line[at : at + size] for line in lines for at in range(0, len(line), size)]
    filled = b"".join(piece.ljust(size, bytes([END])) for piece in pieces)
    rows = torch.from_numpy(np.frombuffer(filled, np.uint8).reshape(-1, size).copy())
    return divided(Data, split.of(len(rows)), rows, name=path.stem, shape=(size,), text=True)


def as_text(rows: Tensor) -> list[str]:
    """The lines of rows [n, L] of bytes divided by 255; what is not UTF-8 becomes U+FFFD."""
    values = (rows * 255).round().byte().numpy()
    return [row.tobytes().partition(bytes([END]))[0].decode(errors="replace") for row in values]
