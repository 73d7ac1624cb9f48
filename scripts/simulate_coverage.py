"""Measure how often the intervals of `hemaseg compare` cover the truth and how often its tests err.

    python scripts/simulate_coverage.py [--replications 3000]

prints the tables of docs/statistics.md (about 5 minutes on one core with the default). Each
scenario draws the scores of two arms on the same subjects with a true mean difference of exactly 0,
and asks the functions of `hemaseg.comparison` themselves. Scores are Dice-like: a normal latent
quality per row is mapped onto a beta distribution with a lump of misses at 0.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hemaseg.statistics.closed_forms import holm, paired_t, signed_rank, t_interval, tost
from hemaseg.statistics.resampling import cluster_bootstrap_interval, sign_flip

NUM_BOOTSTRAP = 999
NUM_SUBJECTS = (20, 40, 64, 100)
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Scores of two arms and the subject, one entry per (subject, scan, run)."""

    score_a: FloatArray
    score_b: FloatArray
    subject: NDArray[np.int_]


@dataclass(frozen=True)
class Rates:
    """Fractions of the replications; a NaN interval does not cover, a NaN p does not reject."""

    flip_coverage: float
    t_coverage: float
    bootstrap_coverage: float
    flip_error: float
    t_error: float
    rank_error: float
    tost_error_below: float
    """Equivalence claimed where the true difference is -margin (one SD of the differences)."""
    tost_error_above: float
    """The same where the true difference is +margin."""


def dice_like(latent: FloatArray, *, misses: float, mean: float = 0.8) -> FloatArray:
    """Standard normal values to Dice: beta(10 mean, 10 (1 - mean)), a fraction of misses at 0."""
    rank = special.ndtr(latent)
    inside = np.clip((rank - misses) / (1 - misses), 0, 1)
    return np.where(rank < misses, 0.0, special.betaincinv(10 * mean, 10 * (1 - mean), inside))


def normal(generator: np.random.Generator, num: int) -> Rows:
    """Normal scores that share the subject's difficulty."""
    shared = generator.normal(size=num)
    noise = generator.normal(size=(2, num))
    return Rows(0.8 + 0.1 * (shared + noise[0]), 0.8 + 0.1 * (shared + noise[1]), np.arange(num))


def dice(generator: np.random.Generator, num: int) -> Rows:
    """Skewed scores without misses; arms are exchangeable."""
    latent_a, latent_b = _latent_pair(generator, num)
    return Rows(dice_like(latent_a, misses=0), dice_like(latent_b, misses=0), np.arange(num))


def dice_with_misses(generator: np.random.Generator, num: int) -> Rows:
    """Skewed scores, each arm misses 5 % of the lesions; arms are exchangeable."""
    latent_a, latent_b = _latent_pair(generator, num)
    return Rows(dice_like(latent_a, misses=0.05), dice_like(latent_b, misses=0.05), np.arange(num))


def clustered(generator: np.random.Generator, num: int) -> Rows:
    """As `dice_with_misses`; 1 to 4 scans per subject, more where it is easy, 3 runs per scan."""
    ease = generator.normal(size=num)
    scans = 1 + np.minimum(generator.poisson(np.exp(0.5 * ease)), 3)
    subject = np.repeat(np.arange(num), scans)
    scan_ease = np.sqrt(0.5) * ease[subject] + np.sqrt(0.2) * generator.normal(size=len(subject))
    scan = np.repeat(np.arange(len(subject)), 3)
    scores = []
    for _ in range(2):
        arm_on_subject = np.sqrt(0.1) * generator.normal(size=num)
        run_noise = np.sqrt(0.2) * generator.normal(size=len(scan))
        latent = scan_ease[scan] + arm_on_subject[subject[scan]] + run_noise
        scores.append(dice_like(latent, misses=0.05))
    return Rows(scores[0], scores[1], subject[scan])


def unequal_shapes(generator: np.random.Generator, num: int) -> Rows:
    """Equal means, unlike shapes: one arm misses 5 % but is better elsewhere, the other 2 %."""
    latent_a, latent_b = _latent_pair(generator, num)
    score_b = dice_like(latent_b, misses=0.02, mean=0.8 * 0.95 / 0.98)
    return Rows(dice_like(latent_a, misses=0.05), score_b, np.arange(num))


def one_arm(generator: np.random.Generator, num: int) -> Rows:
    """Skewed score of one arm against its true mean: the interval in summary.csv."""
    score = dice_like(generator.normal(size=num), misses=0)
    return Rows(score, np.full(num, 0.8), np.arange(num))


def one_arm_with_misses(generator: np.random.Generator, num: int) -> Rows:
    """As `one_arm`, with 5 % misses."""
    score = dice_like(generator.normal(size=num), misses=0.05)
    return Rows(score, np.full(num, 0.8 * 0.95), np.arange(num))


def other_trainings(generator: np.random.Generator, num: int) -> Rows:
    """As `normal`, asked about networks of other trainings: 3 runs per arm, SD of a run 0.01."""
    rows = normal(generator, num)
    offset = generator.normal(scale=0.01 / np.sqrt(3), size=2)
    return Rows(rows.score_a + offset[0], rows.score_b + offset[1], rows.subject)


SCENARIOS: tuple[Callable[[np.random.Generator, int], Rows], ...] = (
    normal,
    dice,
    dice_with_misses,
    clustered,
    unequal_shapes,
    one_arm,
    one_arm_with_misses,
    other_trainings,
)


def rates(
    scenario: Callable[[np.random.Generator, int], Rows], num: int, num_replications: int
) -> Rates:
    """Run one scenario with num subjects; every replication has its own fixed seeds."""
    number = SCENARIOS.index(scenario)
    margin = float(subject_differences(scenario(np.random.default_rng(0), 20_000)).std())
    counts = np.zeros(8)
    for replication in range(num_replications):
        rows = scenario(np.random.default_rng([number, num, replication]), num)
        difference = subject_differences(rows)
        flip = sign_flip(difference, num_bootstrap=NUM_BOOTSTRAP, seed=replication)
        t_limits = t_interval(difference)
        bootstrap = cluster_bootstrap_interval(
            rows.score_a - rows.score_b, rows.subject, num_bootstrap=NUM_BOOTSTRAP, seed=replication
        )
        counts += (
            flip.interval.low <= 0 <= flip.interval.high,
            t_limits.low <= 0 <= t_limits.high,
            bootstrap.low <= 0 <= bootstrap.high,
            flip.p <= 0.05,  # not <: with 999 flips a step of p is 0.1 points
            paired_t(difference).p < 0.05,
            signed_rank(difference).p < 0.05,
            tost(difference - margin, margin=margin).p < 0.05,
            tost(difference + margin, margin=margin).p < 0.05,
        )
    return Rates(*(counts / num_replications).tolist())


def family_wise_error(num: int, num_replications: int) -> float:
    """Fraction of studies of three exchangeable arms with any Holm-adjusted sign-flip p < 0.05."""
    num_errors = 0
    for replication in range(num_replications):
        generator = np.random.default_rng([num, replication, 3])
        shared = np.sqrt(0.8) * generator.normal(size=num)
        latent = shared + np.sqrt(0.2) * generator.normal(size=(3, num))
        scores = dice_like(latent, misses=0.05)
        p_values = [
            sign_flip(scores[a] - scores[b], num_bootstrap=NUM_BOOTSTRAP, seed=replication).p
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        num_errors += bool((holm(p_values) < 0.05).any())
    return num_errors / num_replications


def subject_differences(rows: Rows) -> FloatArray:
    """Mean difference of each subject over its rows."""
    total = np.bincount(rows.subject, weights=rows.score_a - rows.score_b)
    return np.asarray(total / np.bincount(rows.subject), dtype=float)


def _latent_pair(generator: np.random.Generator, num: int) -> FloatArray:
    """Two standard normal rows with correlation 0.8."""
    shared = generator.normal(scale=np.sqrt(0.8), size=num)
    return shared + generator.normal(scale=np.sqrt(0.2), size=(2, num))


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description="Print the tables of docs/statistics.md.")
    parser.add_argument("--replications", type=int, default=3000)
    num_replications = parser.parse_args().replications
    print(
        "| scenario | n | coverage: sign flips | t | bootstrap-t "
        "| error: sign flips | t | Wilcoxon | TOST |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for scenario in SCENARIOS:
        for num in NUM_SUBJECTS:
            result = rates(scenario, num, num_replications)
            *values, tost_below, tost_above = vars(result).values()
            cells = [f"{100 * value:.1f}" for value in (*values, max(tost_below, tost_above))]
            print(f"| `{scenario.__name__}` | {num} | {' | '.join(cells)} |", flush=True)
    print("\n| n | family-wise error |\n| ---: | ---: |")
    for num in NUM_SUBJECTS:
        print(f"| {num} | {100 * family_wise_error(num, num_replications):.1f} |", flush=True)


if __name__ == "__main__":
    main()
