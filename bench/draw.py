# SPDX-License-Identifier: Apache-2.0
"""Draw medians with their quartiles as pictures of docs/: bars, lines, and little else.

A value is a cell of `bench.rounds`, or a number alone; what is text has no value and no mark.  What
is ours has the one accent colour.  Pictures are the same for the same values, suit light and dark
pages, and keep their text as text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

# As they are on a light page, and on a dark one.
INK, INK_DARK = "#1f2328", "#e6edf3"
QUIET, QUIET_DARK = "#57606a", "#9198a1"
OURS, OURS_DARK = "#9a6700", "#d29922"
OTHERS, OTHERS_DARK = "#8c959f", "#6e7681"
_DARK = {INK: INK_DARK, QUIET: QUIET_DARK, OURS: OURS_DARK, OTHERS: OTHERS_DARK}
_WIDTH, _BAR, _FRAME = 7.2, 0.27, 0.95  # inches
_DASHES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")

_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hookline",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "grid.color": OTHERS,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "path.simplify": True,
}

Named = tuple[str, Any]  # a label, and a cell


def has_value(value: Any) -> bool:
    return isinstance(value, dict | int | float)


def parts(value: Any) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of a number alone itself."""
    if isinstance(value, dict):
        return value["low"], value["median"], value["high"]
    return value, value, value


@contextmanager
def picture(path: Path, title: str, about: str, *, bars: int = 0) -> Iterator[Any]:
    """Axes to draw on, written to *path* at the end; as high as so many bars need."""
    import matplotlib as mpl  # noqa: PLC0415 - only those who draw need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_SETTINGS):
        height = _FRAME + bars * _BAR if bars else 3.4
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        # Other fonts than the one that is measured here may be wider.
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)
        axes = figure.add_subplot()
        axes.set_title(title)
        yield axes
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    path.write_text(_suiting(path.read_text(), title, about))


def _suiting(svg: str, title: str, about: str) -> str:
    """With what it shows in words, and its colours for dark pages."""
    dark = "".join(
        f'[style*="{part}: {light}"] {{ {part}: {other} !important; }}\n'
        for light, other in _DARK.items()
        for part in ("fill", "stroke")
    )
    head = (
        f"<title>{escape(title)}</title>\n<desc>{escape(about)}</desc>\n"
        f"<style>\n@media (prefers-color-scheme: dark) {{\n{dark}}}\n</style>\n"
    )
    start = svg.index(">", svg.index("<svg ")) + 1
    lines = (svg[:start] + "\n" + head + svg[start:]).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def is_ours(label: str) -> bool:
    """Whether a row is of what we made: everything else is in grey."""
    first = label.lower()
    return (
        first.startswith(("hookline", "numpy, ring", "consumer", "with rollups"))
        or first == "numpy"
    )


def bars(
    axes: Any,
    rows: Sequence[Named],
    unit: str,
    *,
    is_log: bool = False,
    most_first: bool = False,
    ours: Callable[[str], bool] = is_ours,
) -> None:
    """One bar for each row, the best on top; quartiles are a line across its end."""
    shown = sorted(
        (one for one in rows if has_value(one[1])),
        key=lambda one: parts(one[1])[1],
        reverse=most_first,
    )
    for at, (label, value) in enumerate(shown):
        low, middle, high = parts(value)
        axes.barh(at, middle, height=0.62, color=OURS if ours(label) else OTHERS)
        axes.plot([low, high], [at, at], color=INK, linewidth=1.2, solid_capstyle="butt")
        axes.annotate(
            f"{middle:,.4g}" if middle < 1000 else f"{middle:,.0f}",
            (max(high, middle), at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(shown)), [label for label, _ in shown])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    _scale(axes, "x", is_log=is_log)


def pairs(
    axes: Any, rows: Sequence[tuple[str, Any, Any]], names: tuple[str, str], unit: str
) -> None:
    """Two values of each row on a logarithmic scale, with a line from one to the other."""
    for at, (_, first, second) in enumerate(rows):
        ends = [parts(one)[1] for one in (first, second) if has_value(one)]
        axes.plot(ends, [at] * len(ends), color=OTHERS, linewidth=1)
    for number, (name, color, mark) in enumerate(
        zip(names, (OTHERS, OURS), ("o", "D"), strict=True), 1
    ):
        points = [
            (parts(row[number])[1], at) for at, row in enumerate(rows) if has_value(row[number])
        ]
        axes.plot(*zip(*points, strict=True), mark, color=color, label=name, markersize=5)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(unit)
    _scale(axes, "x", is_log=True)
    axes.grid(axis="x")
    axes.legend(loc="best")


def lines(
    axes: Any,
    ticks: Sequence[str],
    series: Mapping[str, Sequence[Any]],
    units: tuple[str, str],
    *,
    is_log: bool = False,
) -> None:
    """A line for each of *series* over *ticks*, with the quartiles at each."""
    counts = {True: 0, False: 0}
    for name, values in series.items():
        points = [(at, *parts(one)) for at, one in enumerate(values) if has_value(one)]
        if not points:
            continue
        at, low, middle, high = zip(*points, strict=True)
        below = [m - one for m, one in zip(middle, low, strict=True)]
        above = [one - m for m, one in zip(middle, high, strict=True)]
        ours = is_ours(name)
        number = counts[ours]
        counts[ours] += 1
        axes.errorbar(
            *(at, middle, (below, above)),
            color=OURS if ours else OTHERS,
            linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.8 if ours else 1.3,
            marker=_MARKS[(number if ours else number + 1) % len(_MARKS)],
            markersize=4,
            capsize=2,
            elinewidth=0.9,
            label=name,
        )
    axes.set_xticks(range(len(ticks)), ticks)
    axes.margins(x=0.05)
    axes.set_xlabel(units[0])
    axes.set_ylabel(units[1])
    if not is_log:
        axes.set_ylim(bottom=0)
    _scale(axes, "y", is_log=is_log)
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _scale(axes: Any, which: str, *, is_log: bool) -> None:
    """Numbers as they are written elsewhere on the page."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axis = axes.xaxis if which == "x" else axes.yaxis
    if is_log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = axis.get_view_interval()
        # Few decades need the steps between them.
        few = high / max(low, 1e-9) < 300
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
