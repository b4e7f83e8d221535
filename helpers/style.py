"""One style for figures in notebooks and in the report; safe for colour-blind readers (Okabe and Ito)."""

from typing import Any

INK, MUTED, GRID = "#1d2430", "#6a7380", "#d9dee5"
RIGHT, WRONG = "#1f83c4", "#d55e00"
STYLE: Any = {  # Any, because matplotlib's types list every key there is.
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.dpi": 110,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}


def use_style() -> None:
    """In a notebook, draw every figure in the course's style; elsewhere this does nothing."""
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        import matplotlib as mpl
        from cycler import cycler

        mpl.rcParams.update(STYLE | {"figure.constrained_layout.use": True})
        mpl.rcParams["axes.prop_cycle"] = cycler(color=[RIGHT, WRONG, "#009e73", "#e69f00", "#8b93a0", "#cc79a7"])
