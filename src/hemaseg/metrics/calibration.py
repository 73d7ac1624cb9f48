"""How far probabilities can be taken at their word: likelihood, calibration error, temperature.

A network that says 0.9 is *calibrated* if 90 % of the pixels where it says so are lesion. One
trained with a Dice loss says 0 or 1 nearly everywhere, and is not. Dividing its logits by one
number, the *temperature*, is the smallest repair: no pixel changes sides of 0.5, and none its rank.

Everything takes weights, because logits are counted in bins (`LogitCounts`) and not kept: memory
does not grow with the number of slices.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.config import Section

NUM_BINS = 15
"""Bins of the calibration error, of equal width in probability; as Guo et al."""

CONTESTED_PROBABILITY = 0.01
"""Pixels of at least this probability, after calibration, are *contested*."""

TEMPERATURE_RANGE = (0.1, 10.0)
"""Where a temperature is looked for. A network whose sign is right for every pixel would otherwise
get 0, and one without any connection to the reference infinity."""

_LOGIT_LIMIT, _BINS_PER_UNIT = 64, 32

Values = NDArray[Any]


class Calibration(Section):
    """What calibrating a network on its validation slices gave; undefined values are null.

    Errors and likelihoods are means over pixels, each before and after ("calibrated").
    """

    temperature: float
    num_pixels: int
    nll: float
    """Negative log-likelihood per pixel, in nats."""
    calibrated_nll: float
    ece: float
    """Expected calibration error of all pixels. Most lie far from any lesion, where 0 is said
    and is right, so it is small for any network."""
    calibrated_ece: float
    num_contested_pixels: int
    """Pixels whose probability after calibration is `CONTESTED_PROBABILITY` or more; the same ones
    count before it. They are chosen by what the network says and not by the reference: among missed
    pixels alone, even a perfectly calibrated network would look wrong."""
    contested_ece: float | None
    """Expected calibration error of these; null if there are none."""
    calibrated_contested_ece: float | None


class LogitCounts:
    """Pixels counted by their logit, in bins of 1/32, and by their reference.

    The sum of the logits of each bin is kept too, so that a bin stands for its mean: likelihoods
    are off by less than 2e-5 (at temperature 1). Logits beyond -64 and 64 count as these.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, 2 * _LOGIT_LIMIT * _BINS_PER_UNIT), np.int64)
        self._sums = np.zeros(self._counts.shape)

    def add(self, logits: Values, references: NDArray[np.bool_]) -> None:
        """Count pixels.

        Args:
            logits: Any shape.
            references: The same shape.

        Raises:
            ValueError: The shapes differ, or a logit is NaN.
        """
        if logits.shape != references.shape:
            raise ValueError(f"logits have shape {logits.shape}, references {references.shape}")
        flat = logits.reshape(-1).astype(np.float64).clip(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        if np.isnan(flat).any():
            raise ValueError("a logit is NaN, expected numbers")
        num_bins = self._counts.shape[1]
        bins = np.floor((flat + _LOGIT_LIMIT) * _BINS_PER_UNIT).clip(0, num_bins - 1)
        places = bins.astype(np.int64) + num_bins * references.reshape(-1)
        self._counts += np.bincount(places, minlength=2 * num_bins).reshape(2, -1)
        self._sums += np.bincount(places, flat, 2 * num_bins).reshape(2, -1)

    def groups(self) -> tuple[Values, Values, Values]:
        """Logit, reference (0 or 1) and number of pixels of each bin that has any."""
        references, _ = places = np.nonzero(self._counts)
        return self._sums[places] / self._counts[places], references, self._counts[places]


def negative_log_likelihood(
    logits: Values, references: Values, weights: Values | None = None, temperature: float = 1.0
) -> float:
    """Mean over pixels of -log of the probability of what the reference says, in nats.

    Args:
        logits: Any shape.
        references: The same shape, 0 or 1.
        weights: Pixels that each value stands for; None for 1 each.
        temperature: What logits are divided by; above 0.

    Returns:
        0 or more; NaN without pixels.

    >>> round(negative_log_likelihood(np.zeros(3), np.array([0, 1, 1])), 6)  # log 2
    0.693147
    """
    scaled = logits / temperature
    return _mean(np.logaddexp(0, scaled) - references * scaled, weights)


def expected_calibration_error(
    probabilities: Values, references: Values, weights: Values | None = None
) -> float:
    """Mean over pixels of how far the mean probability of their bin is from its share of lesion.

        sum over bins of n / N |mean probability - share of lesion|

    with `NUM_BINS` bins of equal width, each with its lower edge. It is that of the probability of
    lesion, not, as for many classes, that of the likeliest class.

    Args:
        probabilities: Any shape, in [0, 1].
        references: The same shape, 0 or 1.
        weights: Pixels that each value stands for; None for 1 each.

    Returns:
        0 (calibrated, as far as bins can tell) to 1; NaN without pixels.

    *Source:* Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, Eq. 3.

    >>> expected_calibration_error(np.array([0.75, 0.75]), np.array([1, 0]))
    0.25
    """
    of_bin = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1).reshape(-1)
    gaps = (probabilities - references) * (1.0 if weights is None else weights)
    whole = probabilities.size if weights is None else weights.sum()
    sums = np.bincount(of_bin, gaps.reshape(-1), NUM_BINS)
    return float(np.abs(sums).sum() / whole) if whole else math.nan


def fit_temperature(logits: Values, references: Values, weights: Values | None = None) -> float:
    """The temperature of the least negative log-likelihood within `TEMPERATURE_RANGE`.

    The likelihood is convex in 1/T, so it has one minimum. It is searched over log T, where the
    same step matters as much at 0.5 as at 5.

    Args:
        logits: Any shape; at least one.
        references: The same shape, 0 or 1.
        weights: Pixels that each value stands for; None for 1 each.

    Returns:
        T; exactly 1 where no other is better; an end of the range where the minimum lies beyond.

    *Source:* Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.

    >>> round(fit_temperature(np.full(4, 3.0), np.array([1, 1, 1, 0])), 3)  # 3 / log 3
    2.731
    """
    # Prediction reads this module, fits nothing, and starts a third of a second sooner without it.
    from scipy.optimize import minimize_scalar

    def at(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return negative_log_likelihood(logits, references, weights, temperature)

    low, high = TEMPERATURE_RANGE
    found = minimize_scalar(
        at, bounds=(math.log(low), math.log(high)), method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(found.x) if at(found.x) < at(0.0) else 1.0


def calibrate(counts: LogitCounts) -> Calibration:
    """Fit a temperature to counted pixels and say what it changes.

    Raises:
        ValueError: No pixel was counted.
    """
    logits, references, weights = counts.groups()
    if not weights.size:
        raise ValueError("no pixel was counted, expected at least one")
    temperature = fit_temperature(logits, references, weights)
    contested = _sigmoid(logits / temperature) >= CONTESTED_PROBABILITY

    def ece(kept: Values, by: float) -> float:
        probabilities = _sigmoid(logits[kept] / by)
        return expected_calibration_error(probabilities, references[kept], weights[kept])

    everything = np.ones(len(logits), bool)
    has_contested = bool(contested.any())
    return Calibration(
        temperature=temperature,
        num_pixels=int(weights.sum()),
        nll=negative_log_likelihood(logits, references, weights),
        calibrated_nll=negative_log_likelihood(logits, references, weights, temperature),
        ece=ece(everything, 1.0),
        calibrated_ece=ece(everything, temperature),
        num_contested_pixels=int(weights[contested].sum()),
        contested_ece=ece(contested, 1.0) if has_contested else None,
        calibrated_contested_ece=ece(contested, temperature) if has_contested else None,
    )


def _sigmoid(logits: Values) -> Values:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def _mean(values: Values, weights: Values | None) -> float:
    whole = values.size if weights is None else weights.sum()
    return (
        float((values * (1.0 if weights is None else weights)).sum() / whole) if whole else math.nan
    )
