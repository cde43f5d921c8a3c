"""Shared properties of figures: colours, axes without a screen, and files as PNG and SVG."""

from pathlib import Path
from typing import Any

# Okabe and Ito's colours. Every line also has its own marker, and every bar its own hatch.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#999999")
STYLES = ("o-", "s--", "^-.", "d:", "v-", "P--", "X-.", "*:", "p-")
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "++", "oo", "**")


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], layout: Any = None, **grid: Any):
    """Returns a figure for files and its axes, as `matplotlib.pyplot.subplots` does.

    The figure is not one of pyplot's: those, and pyplot's backend, belong to the cells of a notebook and to one thread.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout=layout)
    return figure, figure.subplots(rows, columns, **grid)


def colors(name: str, places: Any) -> Any:
    """Returns the colours of one of Matplotlib's colour maps at positions from 0 to 1."""
    import matplotlib

    return matplotlib.colormaps[name](places)


def plain(axes) -> None:
    """Removes the upper and right side of the frame, and adds a pale grid."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure, file: Path) -> list[Path]:
    """Writes the figure. Returns the files: FILE.png and FILE.svg if the path has no suffix."""
    import matplotlib

    files = [file] if file.suffix in (".png", ".svg", ".pdf") else files_of(file)
    for path in files:
        undated = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": "dynet_jax"}):  # the same figure is the same file
            figure.savefig(path, dpi=120, **undated)
    return files


def files_of(file: Path) -> list[Path]:
    """Returns the files that `save` writes for a path without a suffix.

    >>> [path.name for path in files_of(Path("out/correlation"))]
    ['correlation.png', 'correlation.svg']
    """
    return [file.with_name(file.name + suffix) for suffix in (".png", ".svg")]
