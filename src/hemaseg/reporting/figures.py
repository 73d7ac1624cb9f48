"""One function per figure: tables in, a matplotlib `Figure` out. Captions are the report's.

Each takes `arms`, all arms of the study, whose places give them their colours (see `style`). No
statistics are computed here: means over the runs of one arm are drawn as guides to the eye,
means with an interval come from `summary.csv` and `pairs.csv`, limits of agreement from
`volume_agreement.csv`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from hemaseg.comparison.wording import metric_label, num_decimals
from hemaseg.reporting.examples import Example
from hemaseg.reporting.style import (
    FAINT,
    INK,
    WIDTH_INCHES,
    arm_panels,
    draw_legend,
    look,
    number_text,
    styled,
    wrapped,
)


def size_column(scores: pd.DataFrame) -> str:
    """Column of `scores` that gives the lesion size: mL, or pixels where any mL is undefined.

    Example:
        >>> scores = pd.DataFrame({"reference_ml": [2.5, None], "reference_pixels": [900, 30]})
        >>> size_column(scores)
        'reference_pixels'
    """
    return "reference_pixels" if scores["reference_ml"].isna().any() else "reference_ml"


@styled
def forest_figure(pairs: pd.DataFrame) -> Figure:
    """Mean difference and interval of each pair of arms; a band from minus to plus the margin.

    Args:
        pairs: Rows of `pairs.csv` of one metric.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 1.1 + 0.55 * len(pairs)))
    axes = figure.subplots()
    places = np.arange(len(pairs))[::-1]
    _draw_zero_and_margin(axes, pairs)
    axes.hlines(places, pairs["ci_low"], pairs["ci_high"], color=INK, linewidth=2)
    axes.plot(pairs["mean_difference"], places, "o", color=INK, markersize=7)
    axes.set_yticks(places, _pair_labels(pairs))
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(places, _interval_texts(pairs))
    for side, spine in ((axes, "left"), (numbers, "right")):
        side.tick_params(axis="y", length=0)
        side.spines[spine].set_visible(False)
    axes.set_xlabel(_difference_label(pairs))
    axes.locator_params(axis="x", nbins=5)
    return figure


@styled
def paired_figure(
    differences: pd.DataFrame, summary: pd.DataFrame, pairs: pd.DataFrame, arms: Sequence[str]
) -> Figure:
    """Above, the scores of each subject joined over the arms; below, the differences of each pair.

    Args:
        differences: Rows of `differences.csv` of one metric.
        summary: Rows of `summary.csv` of this metric: means and intervals above.
        pairs: Rows of `pairs.csv` of this metric: means and intervals below.
        arms: All arms of the study.
    """
    heights = (3.6, 0.6 + 0.75 * len(pairs))
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)))
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    strength = min(0.8, 0.2 + 10 / max(differences["subject"].nunique(), 1))

    names = ["arm", "subject", "score"]
    first = differences[["arm_a", "subject", "score_a"]].set_axis(names, axis=1)
    second = differences[["arm_b", "subject", "score_b"]].set_axis(names, axis=1)
    scores = pd.concat([first, second]).drop_duplicates(["arm", "subject"])
    scores["place"] = [arms.index(arm) for arm in scores["arm"]]
    for _, subject in scores.sort_values("place").groupby("subject"):
        upper.plot(subject["place"], subject["score"], color=FAINT, alpha=strength, linewidth=0.8)
    for place, arm in enumerate(arms):
        color, marker = look(arms, arm)
        own = scores[scores["arm"] == arm]
        upper.plot(own["place"], own["score"], marker, color=color, alpha=strength, markersize=4)
        total = summary[summary["arm"] == arm]
        upper.vlines(place + 0.12, total["ci_low"], total["ci_high"], color=INK, linewidth=2)
        upper.plot(
            place + 0.12, total["mean"], marker, color=color, markeredgecolor=INK, markersize=8
        )
    upper.set_xticks(range(len(arms)), wrapped(arms, 16))
    if len(arms) > 4:
        upper.tick_params(axis="x", labelrotation=30)
    upper.set_xlim(-0.5, len(arms) - 0.5)
    upper.set_ylabel(metric_label(pairs["metric"].iloc[0]))

    places = np.arange(len(pairs))[::-1]
    _draw_zero_and_margin(lower, pairs)
    for place, (arm_a, arm_b) in zip(places, pairs[["arm_a", "arm_b"]].to_numpy(), strict=True):
        of_pair = (differences["arm_a"] == arm_a) & (differences["arm_b"] == arm_b)
        own = differences.loc[of_pair, "difference"]
        # Multiples of the golden ratio spread the dots evenly, and alike in every run.
        spread = (np.arange(len(own)) * 0.618034 % 1 - 0.5) * 0.4
        lower.plot(own, place - 0.12 + spread, "o", color="#8A8A8A", alpha=strength, markersize=4)
    lower.hlines(places + 0.27, pairs["ci_low"], pairs["ci_high"], color=INK, linewidth=2)
    lower.plot(pairs["mean_difference"], places + 0.27, "o", color=INK, markersize=7)
    lower.set_yticks(places, _pair_labels(pairs))
    lower.set_ylim(-0.6, len(pairs) - 0.4)
    lower.tick_params(axis="y", length=0)
    lower.set_xlabel(_difference_label(pairs))
    return figure


@styled
def lesion_size_figure(scores: pd.DataFrame, metric: str, arms: Sequence[str]) -> Figure:
    """Score against lesion size, one panel for each arm with all other arms in grey behind it.

    Args:
        scores: Rows of `scores.csv`; a subject tested in several runs is drawn at its mean.
            Subjects without a lesion have no place on the logarithmic axis and are left out.
        metric: Column of `scores` on the vertical axis.
        arms: All arms of the study.
    """
    size = size_column(scores)
    with_lesion = scores[scores["reference_pixels"] > 0]
    # Undefined in one run is undefined, as in the comparison.
    points = with_lesion.groupby(["arm", "subject"], as_index=False)[[size, metric]].agg(_mean)
    # Within less than a decade, powers of ten alone could leave the axis without a number.
    labelled = (1, 2, 5) if points[size].max() < 10 * points[size].min() else (1,)
    figure, panels = arm_panels(arms)
    for arm, axes in zip(arms, panels, strict=True):
        color, marker = look(arms, arm)
        axes.plot(points[size], points[metric], ".", color="#DDDDDD", markersize=5)
        own = points[points["arm"] == arm]
        axes.plot(own[size], own[metric], marker, color=color, markersize=5, alpha=0.85)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=labelled))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("Lesion size (mL)" if size == "reference_ml" else "Lesion size (pixels)")
    figure.supylabel(metric_label(metric))
    return figure


@styled
def volume_agreement_figure(
    volumes: pd.DataFrame, agreement: pd.DataFrame, arms: Sequence[str]
) -> Figure:
    """Difference of predicted and reference volume against their mean (Bland and Altman).

    One panel for each arm, all of one scale. Subjects without a lesion are hollow.

    Args:
        volumes: Rows of `volumes.csv`.
        agreement: Rows of `volume_agreement.csv`: bias, limits and their intervals.
        arms: All arms of the study.
    """
    figure, panels = arm_panels(arms)
    for arm, axes in zip(arms, panels, strict=True):
        color, marker = look(arms, arm)
        axes.axhline(0.0, color="#777777", linewidth=1, zorder=1)
        levels = agreement[agreement["arm"] == arm]
        for name, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
            columns = [f"{name}_ml", f"{name}_ci_low_ml", f"{name}_ci_high_ml"]
            for level, low, high in levels[columns].to_numpy(dtype=float):
                axes.axhspan(low, high, color="#EDF1F5", linewidth=0, zorder=0)
                axes.axhline(level, color=INK, linewidth=1.2, linestyle=style, zorder=2)
        own = volumes[volumes["arm"] == arm]
        for has_lesion, fill in ((True, color), (False, "white")):
            some = own[(own["reference_ml"] > 0) == has_lesion]
            axes.plot(
                some["mean_ml"],
                some["difference_ml"],
                marker,
                color=color,
                markerfacecolor=fill,
                markersize=5,
                alpha=0.85,
            )
    figure.supxlabel("Mean of predicted and reference volume (mL)")
    figure.supylabel("Predicted \N{MINUS SIGN} reference (mL)")
    return figure


@styled
def validation_loss_figure(training: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Validation loss by epoch: thin, each run; thick, the mean up to where the first run ends."""
    return _curves(training, "validation_loss", "Validation loss", arms)


@styled
def training_time_figure(training: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Cumulative training time by epoch, lines as in `validation_loss_figure`."""
    seconds, unit = _unit_of_time(training["cumulative_s"].max())
    in_unit = training.assign(cumulative_s=training["cumulative_s"] / seconds)
    return _curves(in_unit, "cumulative_s", f"Cumulative training time ({unit})", arms)


@styled
def time_to_dice_figure(times: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Median training time until a validation Dice is reached; a line ends where it is undefined.

    Args:
        times: Rows of `time_to_dice.csv`.
        arms: All arms of the study.
    """
    seconds, unit = _unit_of_time(times["median_s"].max())
    figure = Figure(figsize=(WIDTH_INCHES, 3.6))
    axes = figure.subplots()
    for arm in arms:
        color, marker = look(arms, arm)
        own = times[times["arm"] == arm].dropna(subset="median_s")
        axes.plot(
            own["validation_dice"], own["median_s"] / seconds, marker, ls="-", color=color, lw=1.8
        )
    axes.set_xlabel("Validation Dice")
    axes.set_xlim(0, 1)
    axes.set_ylabel(f"Median training time ({unit})")
    axes.set_ylim(bottom=0)
    draw_legend(figure, arms, linestyle="-")
    return figure


def _unit_of_time(longest_s: float) -> tuple[int, str]:
    """Seconds in the unit that fits, and its name."""
    return next(
        (seconds, unit)
        for seconds, unit in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
        if longest_s >= 3 * seconds or seconds == 1
    )


@styled
def cost_figure(costs: pd.DataFrame, summary: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Mean score and its interval against inference time and against number of parameters.

    Args:
        costs: One row per arm: arm, inference_ms_per_slice, num_parameters.
        summary: Rows of `summary.csv` of one metric.
        arms: All arms of the study.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.4))
    panels = figure.subplots(1, 2, sharey=True)
    points = costs.merge(summary, on="arm")
    for axes, column, unit, label in (
        (panels[0], "inference_ms_per_slice", 1.0, "Inference time per slice (ms)"),
        (panels[1], "num_parameters", 1e6, "Trainable parameters (millions)"),
    ):
        axes.margins(x=0.1)
        columns = points[["arm", column, "mean", "ci_low", "ci_high"]]
        for arm, cost, mean, low, high in columns.itertuples(index=False):
            color, marker = look(arms, arm)
            axes.plot([cost / unit] * 2, [low, high], color=INK, linewidth=1.5)
            axes.plot(cost / unit, mean, marker, color=color, markeredgecolor=INK, markersize=9)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    panels[0].set_ylabel(metric_label(summary["metric"].iloc[0]))
    draw_legend(figure, arms, linestyle="none")
    return figure


@styled
def examples_figure(examples: Sequence[Example], arms: Sequence[str]) -> Figure:
    """Slices as rows; image, reference and the mask of each arm as columns.

    The reference is white; on the prediction of an arm its outline is drawn dotted.
    """
    num_columns = 2 + len(arms)
    cell = max(WIDTH_INCHES / num_columns, 1.2)
    titles = ["Image", "Reference", *wrapped(arms, int(11 * cell))]
    figure = Figure(figsize=(cell * num_columns, (cell + 0.3) * len(examples) + 0.2))
    panels = figure.subplots(len(examples), num_columns, squeeze=False)
    for row, (example, cells) in enumerate(zip(examples, panels, strict=True)):
        black, white = example.display_range
        for title, axes in zip(titles, cells, strict=True):
            axes.imshow(example.image, cmap="gray", vmin=black, vmax=white, interpolation="none")
            axes.set_title(title if row == 0 else "")
            axes.autoscale(False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        cells[0].set_ylabel(example.role.capitalize())
        _draw_mask(cells[1], example.reference, "white")
        for place, arm in enumerate(arms):
            axes = cells[2 + place]
            _draw_mask(axes, example.predictions[place], look(arms, arm)[0])
            _draw_outline(axes, example.reference, "white", linestyle="dotted")
            axes.set_xlabel(f"Dice {number_text(example.dice[place], 2)}")
        for axes in cells:
            axes.set_aspect(example.pixel_aspect)
    return figure


def _mean(values: "pd.Series[float]") -> float:
    return float(values.to_numpy().mean())


def _pair_labels(pairs: pd.DataFrame) -> list[str]:
    """First arm minus second arm for each pair, in two lines."""
    names = zip(pairs["arm_a"], pairs["arm_b"], strict=True)
    return [f"{first}\n\N{MINUS SIGN} {second}" for first, second in names]


def _interval_texts(pairs: pd.DataFrame) -> list[str]:
    """Mean difference and interval of each pair, written out."""
    decimals = num_decimals(pairs["metric"].iloc[0])
    texts = []
    for row in pairs[["mean_difference", "ci_low", "ci_high"]].to_numpy(dtype=float):
        mean, low, high = (number_text(value, decimals, signed=True) for value in row)
        texts.append(f"{mean} [{low}, {high}]")
    return texts


def _difference_label(pairs: pd.DataFrame) -> str:
    """Label of an axis of differences."""
    return f"Difference in {metric_label(pairs['metric'].iloc[0])}"


def _draw_zero_and_margin(axes: Axes, pairs: pd.DataFrame) -> None:
    """The line of no difference, and the band of differences within the margin if there is one."""
    margin = pairs["margin"].iloc[0]
    if np.isfinite(margin):
        axes.axvspan(-margin, margin, color="#EDF1F5", linewidth=0, zorder=0)
    axes.axvline(0.0, color="#777777", linewidth=1, zorder=1)


def _curves(training: pd.DataFrame, column: str, label: str, arms: Sequence[str]) -> Figure:
    """`column` by epoch for every run, and its mean over the runs of an arm."""
    figure = Figure(figsize=(WIDTH_INCHES, 3.6))
    axes = figure.subplots()
    for arm in arms:
        color, marker = look(arms, arm)
        own = training[training["arm"] == arm]
        runs = own.pivot(index="epoch", columns=["fold", "seed"], values=column)
        axes.plot(runs.index, runs, color=color, linewidth=0.8, alpha=0.45)
        # Over fewer runs the mean would jump where a run ends.
        mean = runs.dropna().mean(axis="columns")
        axes.plot(mean.index, mean, marker, ls="-", color=color, linewidth=2.5, markevery=[-1])
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(label)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    draw_legend(figure, arms, linestyle="-")
    return figure


def _draw_mask(axes: Axes, mask: NDArray[np.bool_], color: str) -> None:
    """A mask as translucent fill and outline."""
    fill = np.zeros((*mask.shape, 4))
    fill[mask] = (*to_rgb(color), 0.35)
    axes.imshow(fill, interpolation="none", aspect="auto")
    _draw_outline(axes, mask, color, linestyle="solid")


def _draw_outline(axes: Axes, mask: NDArray[np.bool_], color: str, *, linestyle: str) -> None:
    """The border of a mask; nothing for an empty one. Padding closes it at the image's edge."""
    if mask.any():
        height, width = mask.shape
        padded = np.pad(mask, 1).astype(float)
        axes.contour(
            np.arange(-1, width + 1),
            np.arange(-1, height + 1),
            padded,
            levels=[0.5],
            colors=[color],
            linewidths=1.1,
            linestyles=linestyle,
        )
