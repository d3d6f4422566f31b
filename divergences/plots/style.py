"""Style of figures; making and writing them without a display or pyplot state.

Blue is x, or more of x; orange is y: the pair of Okabe & Ito that every colour vision tells apart.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ..files import replacing

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec
    from matplotlib.ticker import LogLocator, MaxNLocator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'{error.name} is not installed: pip install "divergences[plot]"', name=error.name
    ) from None

__all__ = [
    "BLUE",
    "DIVERGING",
    "GREY",
    "INK",
    "ORANGE",
    "Axes",
    "Figure",
    "LogLocator",
    "MaxNLocator",
    "SubplotSpec",
    "check_figure_path",
    "new_figure",
    "save_figure",
    "style",
]

INK, GREY, BLUE, ORANGE = "0.15", "0.72", "#0072B2", "#D55E00"
DIVERGING = LinearSegmentedColormap.from_list(
    "witness", [ORANGE, "#F2B48A", "#F7F7F7", "#8CC1E0", BLUE]
)


def style() -> AbstractContextManager[None]:
    """The look of all figures, as a context to create and draw them in."""
    return rc_context(
        {
            "font.size": 8,
            "figure.titlesize": 8.5,
            "axes.titlesize": 8,
            "axes.titlelocation": "left",
            "axes.labelsize": 7.5,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "legend.fontsize": 7,
            "legend.frameon": False,
        }
    )


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that needs no display. Call it and draw within ``style()``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_figure_path(path: Path) -> None:
    """Raise ValueError for a format that matplotlib does not write, or a folder there is none."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"cannot draw {path}: its suffix is none of {', '.join(sorted(known))}")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write in the format of the suffix; ``path`` holds the old file or the whole new one, never a
    part."""
    check_figure_path(path)
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=200)
