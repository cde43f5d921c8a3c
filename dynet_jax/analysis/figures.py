"""Shared properties of figures: colours, a backend without a screen, and files as PNG and SVG."""

from pathlib import Path

# Okabe and Ito's colours. Every line also has its own marker, and every bar its own hatch.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#999999")
STYLES = ("o-", "s--", "^-.", "d:", "v-", "P--", "X-.", "*:", "p-")
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "++", "oo", "**")


def pyplot():
    """Returns Matplotlib's pyplot, set up to draw to files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "dynet_jax"  # equal figures become equal files
    return pyplot


def plain(axes) -> None:
    """Removes the upper and right side of the frame, and adds a pale grid."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure, file: Path) -> list[Path]:
    """Writes the figure and closes it. Returns the files: FILE.png and FILE.svg if the path has no suffix."""
    files = [file] if file.suffix in (".png", ".svg", ".pdf") else files_of(file)
    for path in files:
        undated = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=120, **undated)
    pyplot().close(figure)
    return files


def files_of(file: Path) -> list[Path]:
    """Returns the files that `save` writes for a path without a suffix.

    >>> [path.name for path in files_of(Path("out/correlation"))]
    ['correlation.png', 'correlation.svg']
    """
    return [file.with_name(file.name + suffix) for suffix in (".png", ".svg")]
