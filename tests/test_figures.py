import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from hemaseg.comparison.learning import time_to_dice
from hemaseg.reporting.examples import Example
from hemaseg.reporting.figures import (
    cost_figure,
    examples_figure,
    forest_figure,
    lesion_size_figure,
    paired_figure,
    size_column,
    time_to_dice_figure,
    training_time_figure,
    validation_loss_figure,
    volume_agreement_figure,
)
from hemaseg.reporting.style import COLORS, INK, MARKERS, number_text, save_figure

ARMS = ("DR-U-Net", "_dense $x$", "U-Net")
NAN = float("nan")

PAIRS = pd.DataFrame(
    {
        "metric": "dice",
        "arm_a": [ARMS[0], ARMS[0], ARMS[1]],
        "arm_b": [ARMS[1], ARMS[2], ARMS[2]],
        "mean_difference": [0.01, -0.03, -0.04],
        "ci_low": [-0.02, -0.05, -0.07],
        "ci_high": [0.04, -0.01, 0.001],
        "margin": 0.02,
    }
)
SUMMARY = pd.DataFrame(
    {
        "metric": "dice",
        "arm": ARMS,
        "mean": [0.8, 0.79, 0.83],
        "ci_low": [0.75, 0.74, 0.8],
        "ci_high": [0.84, 0.83, 0.86],
    }
)
DIFFERENCES = pd.DataFrame(
    {
        "metric": "dice",
        "arm_a": [ARMS[0]] * 4 + [ARMS[1]] * 2,
        "arm_b": [ARMS[1]] * 2 + [ARMS[2]] * 4,
        "subject": ["s1", "s2"] * 3,
        "score_a": [0.7, 0.9, 0.7, 0.9, 0.6, 0.95],
        "score_b": [0.6, 0.95, 0.75, 0.92, 0.75, 0.92],
        "difference": [0.1, -0.05, -0.05, -0.02, -0.15, 0.03],
    }
)
TRAINING = pd.DataFrame(
    {
        "arm": [ARMS[0]] * 5 + [ARMS[2]] * 2,
        "fold": "0",
        "seed": ["0", "0", "0", "1", "1", "0", "0"],
        "epoch": [1.0, 2, 3, 1, 2, 1, 2],
        "validation_loss": [0.8, 0.5, 0.4, 0.6, 0.3, 0.9, 0.7],
        "validation_dice": [0.1, 0.3, 0.5, 0.4, 0.2, 0.0, 0.2],
        "cumulative_s": [60.0, 120, 180, 80, 160, 100, 240],
    }
)
COSTS = pd.DataFrame(
    {
        "arm": ARMS,
        "inference_ms_per_slice": [20.0, 30.0, 25.0],
        "num_parameters": [10_953_249.0, 20_243_335.0, 31_114_305.0],
    }
)


VOLUMES = pd.DataFrame(
    {
        "arm": np.repeat(ARMS, 3),
        "subject": ["s1", "s2", "s3"] * 3,
        "reference_ml": [2.0, 30.0, 0.0] * 3,
        "mean_ml": [2.5, 27.0, 1.0, 2.0, 30.0, 0.0, 2.0, NAN, 0.0],
        "difference_ml": [1.0, -6.0, 2.0, 0.0, 0.0, 0.0, 0.0, NAN, 0.0],
    }
)
AGREEMENT = pd.DataFrame(
    {
        "arm": ARMS,
        "bias_ml": [-1.0, 0.0, NAN],
        "bias_ci_low_ml": [-3.0, NAN, NAN],
        "bias_ci_high_ml": [1.0, NAN, NAN],
        "lower_limit_ml": [-9.0, NAN, NAN],
        "lower_limit_ci_low_ml": [-14.0, NAN, NAN],
        "lower_limit_ci_high_ml": [-7.0, NAN, NAN],
        "upper_limit_ml": [7.0, NAN, NAN],
        "upper_limit_ci_low_ml": [5.0, NAN, NAN],
        "upper_limit_ci_high_ml": [12.0, NAN, NAN],
    }
)


def scores() -> pd.DataFrame:
    """Two subjects with a lesion, one without; the first tested twice."""
    rows = [
        ("s1", "0", 0.6, 2.0, 500.0),
        ("s1", "1", 0.8, 2.0, 500.0),
        ("s2", "0", 0.9, 30.0, 7000.0),
        ("s3", "0", 0.0, 0.0, 0.0),
    ]
    table = pd.DataFrame(
        rows, columns=["subject", "seed", "dice", "reference_ml", "reference_pixels"]
    )
    return pd.concat([table.assign(arm=arm) for arm in ARMS], ignore_index=True)


def example(reference: NDArray[np.bool_] | None = None, aspect: float = 1.0) -> Example:
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:3, 2:5] = True
    return Example(
        role="best",
        subject="s1",
        slice="7",
        image=np.arange(48.0).reshape(6, 8),
        display_range=(5.0, 40.0),
        pixel_aspect=aspect,
        reference=mask if reference is None else reference,
        predictions=(mask, np.zeros_like(mask), ~np.zeros_like(mask)),
        dice=(1.0, NAN, 0.25),
    )


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "forest": lambda: forest_figure(PAIRS),
    "paired": lambda: paired_figure(DIFFERENCES, SUMMARY, PAIRS, ARMS),
    "lesion_size": lambda: lesion_size_figure(scores(), "dice", ARMS),
    "volume_agreement": lambda: volume_agreement_figure(VOLUMES, AGREEMENT, ARMS),
    "loss": lambda: validation_loss_figure(TRAINING, ARMS),
    "time": lambda: training_time_figure(TRAINING, ARMS),
    "time_to_dice": lambda: time_to_dice_figure(time_to_dice(TRAINING), ARMS),
    "cost": lambda: cost_figure(COSTS, SUMMARY, ARMS),
    "examples": lambda: examples_figure([example()], ARMS),
}


def lines_of(axes: Axes, color: str) -> list[Line2D]:
    return [line for line in axes.lines if to_hex(line.get_color()) == color.lower()]


def xy(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata(), dtype=float)]


@pytest.mark.parametrize("name", DRAWINGS)
def test_equal_figures_give_equal_files_without_date_or_address(name: str, tmp_path: Path) -> None:
    first = save_figure(DRAWINGS[name](), tmp_path / "first")
    second = save_figure(DRAWINGS[name](), tmp_path / "second")
    assert [path.name for path in first] == ["first.svg", "first.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[1].read_bytes().startswith(b"\x89PNG")
    svg = first[0].read_text(encoding="utf-8")
    assert "<metadata" not in svg
    outside = re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"|<!DOCTYPE[^>]*>', "", svg)
    assert "http" not in outside
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "first.png", "first.svg", "second.png", "second.svg",
    ]  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_all_text_is_readable_and_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    figure = DRAWINGS[name]()
    svg = save_figure(figure, tmp_path / name)[0].read_text(encoding="utf-8")
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    assert texts
    assert min(float(text.get_fontsize()) for text in texts) >= 10
    assert "_dense $x$" in svg


def test_arms_keep_colour_and_marker_in_all_figures() -> None:
    for axes in (DRAWINGS["loss"]().axes[0], DRAWINGS["cost"]().axes[0]):
        figure = axes.get_figure()
        assert figure is not None
        handles = figure.legends[0].legend_handles
        looks = [(to_hex(h.get_color()), h.get_marker()) for h in handles if isinstance(h, Line2D)]
        assert looks == [(COLORS[k].lower(), MARKERS[k]) for k in range(3)]
    # The middle arm has no training: the third still has the third colour.
    mean = lines_of(DRAWINGS["loss"]().axes[0], COLORS[2])[-1]
    assert mean.get_marker() == MARKERS[2]
    assert xy(mean) == [(1.0, 0.9), (2.0, 0.7)]


def test_colours_with_markers_repeat_only_after_56_arms() -> None:
    arms = [f"a{k}" for k in range(56)]
    pairs = {(COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)]) for k in range(len(arms))}
    assert len(pairs) == 56


def test_forest_shows_means_intervals_margin_and_numbers() -> None:
    axes = forest_figure(PAIRS).axes[0]
    dots = next(line for line in axes.lines if line.get_marker() == "o")
    assert xy(dots) == [(0.01, 2.0), (-0.03, 1.0), (-0.04, 0.0)]
    segments = axes.collections[0].get_paths()
    assert [np.asarray(path.vertices)[:, 0].tolist() for path in segments] == [
        [-0.02, 0.04], [-0.05, -0.01], [-0.07, 0.001],
    ]  # fmt: skip
    (band,) = axes.patches
    assert band.get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx(
        [-0.02, 0.02]
    )
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == f"{ARMS[0]}\n\N{MINUS SIGN} {ARMS[1]}"
    numbers = [text.get_text() for text in axes.child_axes[0].get_yticklabels()]
    assert numbers[1] == "-0.030 [-0.050, -0.010]".replace("-", "\N{MINUS SIGN}")


def test_forest_without_margin_draws_no_band() -> None:
    assert not forest_figure(PAIRS.assign(margin=NAN)).axes[0].patches


def test_paired_figure_joins_subjects_and_shows_every_difference() -> None:
    upper, lower = paired_figure(DIFFERENCES, SUMMARY, PAIRS, ARMS).axes
    joined = [line for line in upper.lines if len(xy(line)) == 3]
    assert [xy(line) for line in joined] == [
        [(0, 0.7), (1, 0.6), (2, 0.75)],
        [(0, 0.9), (1, 0.95), (2, 0.92)],
    ]
    dots = [line for line in lower.lines if line.get_linestyle() == "None"]
    assert [sorted(x for x, _ in xy(line)) for line in dots[:3]] == [
        [-0.05, 0.1], [-0.05, -0.02], [-0.15, 0.03],
    ]  # fmt: skip
    assert [x for x, _ in xy(dots[3])] == [0.01, -0.03, -0.04]


def test_lesion_size_draws_means_over_runs_and_leaves_out_subjects_without_lesion() -> None:
    figure = lesion_size_figure(scores(), "dice", ARMS)
    for panel, color in zip(figure.axes, COLORS, strict=False):
        (own,) = lines_of(panel, color)
        assert xy(own) == [pytest.approx((2.0, 0.7)), pytest.approx((30.0, 0.9))]
        assert panel.get_xscale() == "log"
    assert figure.get_supxlabel() == "Lesion size (mL)"


def test_a_subject_that_is_undefined_in_one_run_is_not_drawn() -> None:
    table = scores()
    table.loc[(table["subject"] == "s1") & (table["seed"] == "1"), "dice"] = NAN
    (own,) = lines_of(lesion_size_figure(table, "dice", ARMS).axes[0], COLORS[0])
    np.testing.assert_equal(xy(own), [(2.0, NAN), (30.0, 0.9)])


@pytest.mark.parametrize(
    ("largest", "labels"), [(7.0, ["2", "5"]), (30.0, ["10"]), (2000.0, ["10", "100", "1,000"])]
)
def test_lesion_size_always_has_numbers_on_its_axis(
    largest: float, labels: list[str], tmp_path: Path
) -> None:
    table = scores().replace({"reference_ml": {30.0: largest}})
    figure = lesion_size_figure(table, "dice", ARMS)
    save_figure(figure, tmp_path / "sizes")
    low, high = figure.axes[0].get_xlim()
    shown = zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
    assert [text.get_text() for place, text in shown if low <= place <= high] == labels
    assert not [text for text in figure.axes[0].get_xticklabels(minor=True) if text.get_text()]


def test_lesion_size_is_in_pixels_where_one_volume_is_unknown() -> None:
    table = scores()
    table.loc[0, "reference_ml"] = None
    assert size_column(table) == "reference_pixels"
    figure = lesion_size_figure(table, "dice", ARMS)
    assert figure.get_supxlabel() == "Lesion size (pixels)"
    (own,) = lines_of(figure.axes[0], COLORS[0])
    assert [x for x, _ in xy(own)] == [500.0, 7000.0]


def test_volumes_have_bias_and_limits_of_their_arm_on_one_scale(tmp_path: Path) -> None:
    figure = volume_agreement_figure(VOLUMES, AGREEMENT, ARMS)
    save_figure(figure, tmp_path / "volumes")
    first, second, third = figure.axes
    with_lesion, without = lines_of(first, COLORS[0])
    assert xy(with_lesion) == [(2.5, 1.0), (27.0, -6.0)]
    assert xy(without) == [(1.0, 2.0)]
    assert without.get_markerfacecolor() == "white"
    levels = [(line.get_linestyle(), xy(line)[0][1]) for line in lines_of(first, INK)]
    assert levels == [("-", -1.0), ("--", -9.0), ("--", 7.0)]
    bands = [
        band.get_extents().transformed(first.transData.inverted()).intervaly.tolist()
        for band in first.patches
    ]
    assert bands == [pytest.approx(ends) for ends in ([-3, 1], [-14, -7], [5, 12])]
    assert first.get_ylim() == second.get_ylim() == third.get_ylim()
    low, high = first.get_ylim()
    assert low < -14
    assert high > 12
    assert xy(lines_of(second, INK)[0])[0][1] == 0.0
    assert np.isnan([xy(line)[0][1] for line in lines_of(third, INK)]).all()


def test_many_arms_have_their_names_apart_and_no_empty_panels(tmp_path: Path) -> None:
    arms = tuple(f"Dense-U-Net-{number}" for number in range(5))
    table = pd.concat([scores().query("arm == 'U-Net'").assign(arm=arm) for arm in arms])
    panels = lesion_size_figure(table, "dice", arms).axes
    assert [axes.get_title() for axes in panels if axes.get_visible()] == list(arms)
    summary = pd.concat([SUMMARY.iloc[:1].assign(arm=arm) for arm in arms])
    pairs = PAIRS.iloc[:1].assign(arm_a=arms[0], arm_b=arms[4])
    differences = DIFFERENCES.iloc[:2].assign(arm_a=arms[0], arm_b=arms[4])
    figure = paired_figure(differences, summary, pairs, arms)
    save_figure(figure, tmp_path / "many")
    labels = figure.axes[0].get_xticklabels()
    assert [text.get_text() for text in labels] == list(arms)
    assert {text.get_rotation() for text in labels} == {30.0}


def test_mean_loss_ends_where_the_first_run_ends() -> None:
    axes = validation_loss_figure(TRAINING, ARMS).axes[0]
    *runs, mean = lines_of(axes, COLORS[0])
    assert len(runs) == 2
    assert xy(runs[0]) == [(1.0, 0.8), (2.0, 0.5), (3.0, 0.4)]
    assert xy(mean) == [pytest.approx((1.0, 0.7)), pytest.approx((2.0, 0.4))]


@pytest.mark.parametrize(
    ("factor", "unit", "first"),
    [(1, "minutes", 1.0), (0.01, "seconds", 0.6), (100, "hours", 100 / 60)],
)
def test_training_time_is_in_a_fitting_unit(factor: float, unit: str, first: float) -> None:
    training = TRAINING.assign(cumulative_s=TRAINING["cumulative_s"] * factor)
    axes = training_time_figure(training, ARMS).axes[0]
    assert axes.get_ylabel() == f"Cumulative training time ({unit})"
    assert xy(lines_of(axes, COLORS[0])[0])[0] == pytest.approx((1.0, first))


def test_time_to_dice_ends_where_half_of_the_runs_never_come() -> None:
    axes = time_to_dice_figure(time_to_dice(TRAINING), ARMS).axes[0]
    assert axes.get_ylabel() == "Median training time (minutes)"
    (first,), (third,) = (lines_of(axes, COLORS[n]) for n in (0, 2))
    # Of two runs, one comes to 0.2 after 120 s and the other after 80 s; only one comes to 0.45.
    assert dict(xy(first))[0.2] == pytest.approx(100 / 60)
    assert max(x for x, _ in xy(first)) == 0.4
    assert xy(third)[-1] == (0.2, 4.0)
    assert not xy(lines_of(axes, COLORS[1])[0])


def test_cost_figure_places_arms_by_time_and_parameters() -> None:
    time, size = cost_figure(COSTS, SUMMARY, ARMS).axes
    assert xy(lines_of(time, COLORS[1])[0]) == [(30.0, 0.79)]
    assert xy(lines_of(size, COLORS[0])[0]) == [(10.953249, 0.8)]
    assert time.get_xlim()[0] == 0


def test_examples_show_image_reference_and_masks_in_the_colour_of_their_arm() -> None:
    shown = example()
    figure = examples_figure([shown, shown], ARMS)
    assert len(figure.axes) == 2 * 5
    first_row = figure.axes[:5]
    assert [axes.get_title() for axes in first_row] == ["Image", "Reference", *ARMS]
    assert [axes.get_xlabel() for axes in first_row[2:]] == [
        "Dice 1.00", "Dice undefined", "Dice 0.25",
    ]  # fmt: skip
    assert first_row[0].get_ylabel() == "Best"
    image, fill = first_row[2].images
    np.testing.assert_array_equal(np.asarray(image.get_array()), shown.image)
    assert image.get_clim() == (5.0, 40.0)
    filled = np.asarray(fill.get_array())
    np.testing.assert_array_equal(filled[..., 3] > 0, shown.predictions[0])
    assert to_hex(tuple(filled[1, 2, :3].tolist())) == COLORS[0].lower()


def test_masks_at_the_border_and_empty_ones_keep_the_frame() -> None:
    full = np.ones((6, 8), dtype=bool)
    for reference in (full, ~full):
        figure = examples_figure([example(reference, aspect=2.5)], ARMS)
        for axes in figure.axes:
            assert axes.get_xlim() == (-0.5, 7.5)
            assert axes.get_ylim() == (5.5, -0.5)
            assert axes.get_aspect() == 2.5


def test_undefined_and_infinite_values_are_left_out_without_a_warning(tmp_path: Path) -> None:
    columns = ["mean_difference", "ci_low", "ci_high", "margin"]
    pairs = PAIRS.assign(metric="hd95_mm", **dict.fromkeys(columns, NAN))
    summary = SUMMARY.assign(metric="hd95_mm", mean=NAN, ci_low=NAN, ci_high=NAN)
    differences = DIFFERENCES.assign(score_a=np.inf, difference=np.inf)
    training = TRAINING.assign(validation_loss=NAN, cumulative_s=NAN)
    costs = COSTS.assign(inference_ms_per_slice=[NAN, np.inf, 3.0], num_parameters=NAN)
    for number, figure in enumerate(
        (
            forest_figure(pairs),
            paired_figure(differences, summary, pairs, ARMS),
            paired_figure(differences.iloc[:0], summary, pairs, ARMS),
            lesion_size_figure(scores().assign(dice=np.inf), "dice", ARMS),
            validation_loss_figure(training, ARMS),
            training_time_figure(training, ARMS),
            cost_figure(costs, summary, ARMS),
        )
    ):
        svg, _ = save_figure(figure, tmp_path / str(number))
        assert "</svg>" in svg.read_text(encoding="utf-8")
    numbers = forest_figure(pairs).axes[0].child_axes[0].get_yticklabels()
    assert numbers[0].get_text() == "undefined [undefined, undefined]"


def test_numbers_have_a_true_minus_sign() -> None:
    assert number_text(-0.02, 3, signed=True) == "\N{MINUS SIGN}0.020"
    assert number_text(float("-inf"), 2) == "\N{MINUS SIGN}infinite"
    assert number_text(0.02, 3, signed=True) == "+0.020"
