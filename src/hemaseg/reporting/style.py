"""What all figures have in common: colours, markers, letters, panels, a legend, their files.

Every arm keeps one colour and one marker in all figures, given by its place in `arms`, the tuple
of all arms of the study. The colours are those of Okabe and Ito (Color Universal Design, 2008),
which readers with any of the common colour vision deficiencies tell apart, without the yellow,
which is too pale on white.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hemaseg.comparison.wording import format_number
from hemaseg.files import whole_file

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One more marker than colours: a pair of both repeats only after 56 arms.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#222222"
FAINT = "#B8B8B8"
WIDTH_INCHES = 8.0
PNG_DOTS_PER_INCH = 200

styled = matplotlib.rc_context(
    {
        "axes.edgecolor": "#777777",
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10.5,
        "figure.constrained_layout.use": True,
        "figure.labelsize": "medium",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10.5,
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
        "svg.hashsalt": "hemaseg",  # otherwise the identifiers in the file differ from run to run
        "text.color": INK,
        "text.parse_math": False,  # names from the user may contain dollar signs
        "xtick.color": INK,
        "ytick.color": INK,
    }
)
"""Decorates what makes, draws or saves a figure."""


@styled
def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Paths of the SVG and the PNG file written for `figure`; equal figures give equal bytes.

    Args:
        figure: What a function of `figures` returned.
        stem: Target without suffix. Existing files are replaced whole.
    """
    # One layout for both files: computing it takes longer than drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    # Dates and versions of the writer would make the files differ between runs and machines.
    svg_metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with whole_file(svg) as partial:
        figure.savefig(partial, format="svg", dpi=PNG_DOTS_PER_INCH, metadata=svg_metadata)
    with whole_file(png) as partial:
        figure.savefig(partial, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
    return svg, png


def number_text(value: float, decimals: int, *, signed: bool = False) -> str:
    """As `hemaseg.comparison.wording.format_number`, with a true minus sign."""
    return format_number(value, decimals, signed=signed).replace("-", "\N{MINUS SIGN}")


def look(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Colour and marker of an arm."""
    place = arms.index(arm)
    return COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]


def wrapped(arms: Sequence[str], num_letters: int) -> list[str]:
    """Names of the arms in lines of about `num_letters`."""
    return [textwrap.fill(arm, num_letters, break_long_words=False) for arm in arms]


def draw_legend(figure: Figure, arms: Sequence[str], *, linestyle: Literal["-", "none"]) -> None:
    """One legend above all panels."""
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle=linestyle, label=arm)
        for arm in arms
        for color, marker in (look(arms, arm),)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(arms), 4))


def arm_panels(arms: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each arm, up to three side by side, all of one scale."""
    num_columns = min(len(arms), 3)
    num_rows = -(-len(arms) // num_columns)
    figure = Figure(figsize=(WIDTH_INCHES, 0.4 + 2.7 * num_rows))
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes in panels[len(arms) :]:
        axes.set_visible(False)
    for arm, axes in zip(arms, panels, strict=False):
        axes.set_title(textwrap.shorten(arm, 40, placeholder="..."))
    return figure, panels[: len(arms)]
