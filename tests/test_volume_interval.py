import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, spearmanr

from hemaseg.metrics.volume_interval import MIN_SUBJECTS, volume_errors, volume_interval

HEADS = Path(__file__).parent.parent / "results" / "weights" / "ct" / "heads.csv"

volumes_ml = st.floats(0, 200)


def test_errors_are_differences_of_cube_roots_in_order() -> None:
    predicted, reference = np.array([0.0, 64.0, 8.0, 27.0]), np.array([125.0, 27.0, 8.0, 0.0])
    np.testing.assert_allclose(volume_errors(predicted, reference), [0, 1, 3, 5])
    np.testing.assert_array_equal(
        volume_errors(predicted, reference), volume_errors(reference, predicted)
    )


@pytest.mark.parametrize(
    ("num", "rank"), [(9, 9), (10, 10), (18, 18), (19, 18), (29, 27), (99, 90)]
)
def test_the_rank_is_90_percent_of_the_errors_and_the_new_one(num: int, rank: int) -> None:
    """Errors of 0.01 to `num` hundredths: the end tells which of them was taken."""
    low, high = volume_interval(27.0, [k / 100 for k in range(num, 0, -1)])
    assert low == pytest.approx((3 - rank / 100) ** 3)
    assert high == pytest.approx((3 + rank / 100) ** 3)


def test_the_lower_end_is_never_negative() -> None:
    assert volume_interval(0.0, [2.0] * 9) == (0.0, 8.0)
    assert volume_interval(1.0, [2.0] * 9) == (0.0, 27.0)


def test_what_nobody_knows_has_no_interval() -> None:
    few = [0.5] * (MIN_SUBJECTS - 1)
    for ends in (volume_interval(5.0, few), volume_interval(math.nan, [0.5] * 20)):
        assert all(math.isnan(end) for end in ends)


@given(st.lists(st.tuples(volumes_ml, volumes_ml), min_size=MIN_SUBJECTS + 1, max_size=60))
def test_of_any_subjects_at_most_a_tenth_lies_outside_the_interval_of_the_others(
    pairs: list[tuple[float, float]],
) -> None:
    """The promise, without chance: whichever of n + 1 subjects is the new one, all being alike."""
    predicted, reference = np.array(pairs).T
    num_outside = 0
    for k in range(len(pairs)):
        others = volume_errors(np.delete(predicted, k), np.delete(reference, k))
        low, high = volume_interval(predicted[k], others.tolist())
        slack = 1e-9 * (1 + reference[k])
        num_outside += not low - slack <= reference[k] <= high + slack
    assert num_outside <= len(pairs) // 10


def test_in_one_of_ten_draws_the_share_within_is_below_what_the_docs_say() -> None:
    """Given errors of any distribution, the share follows Beta(k, n + 1 - k): Vovk 2012."""
    for num, rank, share in ((9, 9, 0.77), (50, 46, 0.85)):
        assert beta(rank, num + 1 - rank).ppf(0.1) == pytest.approx(share, abs=0.005)


def test_cube_roots_err_alike_in_large_and_small_lesions() -> None:
    """By the 240 synthetic heads of the card of `ct`; as docs/metrics.md says."""
    table = pd.read_csv(HEADS)
    predicted, reference = table["prediction_ml"], table["hematoma_ml"]
    by_root = spearmanr(predicted, (np.cbrt(predicted) - np.cbrt(reference)).abs()).statistic
    by_ml = spearmanr(predicted, (predicted - reference).abs()).statistic
    assert (len(table), round(by_root, 2), round(by_ml, 2)) == (240, 0.28, 0.67)


def test_new_scans_lie_within_as_often_as_is_promised_and_hardly_more() -> None:
    """Lognormal volumes, predicted with a bias: k of n + 1 by theory, n + 1 of which are alike."""
    random = np.random.default_rng(0)
    num_within, num_trials = 0, 4000
    for _ in range(num_trials):
        reference = random.lognormal(3, 1, 30)
        predicted = reference * random.lognormal(-0.1, 0.3, 30)
        errors = volume_errors(predicted[1:], reference[1:])
        low, high = volume_interval(predicted[0], errors.tolist())
        num_within += low <= reference[0] <= high
    # Of 29 errors the 27th: 27 of 30.
    assert num_within / num_trials == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / num_trials))
