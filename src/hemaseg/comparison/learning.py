"""How long each arm trains until it is as good as another one."""

import numpy as np
import pandas as pd

LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Of validation Dice."""


def time_to_dice(training: pd.DataFrame) -> pd.DataFrame:
    """Median time until a run of an arm first reaches a validation Dice, for each of `LEVELS`.

    Time per epoch says little where one network needs more epochs than another. A run that never
    reaches a level counts as one that takes longer than all that do, so that the median over runs
    is undefined where half of them or more do not reach it, and never favours an arm that fails.

    Args:
        training: `training.csv` of a study: arm, fold, seed, epoch, validation_dice, cumulative_s.

    Returns:
        One row for each arm and level: arm, validation_dice (the level), num_runs, num_reached,
        median_s (training and validation; NaN if undefined).

    >>> run = {"arm": "a", "fold": 0, "seed": 0}
    >>> rows = [(1, 0.30, 10.0), (2, 0.50, 20.0), (3, 0.45, 30.0)]
    >>> table = pd.DataFrame(
    ...     [run | dict(zip(("epoch", "validation_dice", "cumulative_s"), row)) for row in rows]
    ... )
    >>> time_to_dice(table).set_index("validation_dice").loc[[0.3, 0.5, 0.55], "median_s"].tolist()
    [10.0, 20.0, nan]
    """
    rows = []
    for arm, of_arm in training.groupby("arm", sort=False):
        runs = [
            (run["validation_dice"].fillna(0).cummax().to_numpy(), run["cumulative_s"].to_numpy())
            for _, run in of_arm.sort_values("epoch").groupby(["fold", "seed"], sort=False)
        ]
        for level in LEVELS:
            times = [
                float(times_s[np.argmax(best >= level)]) if best[-1] >= level else np.inf
                for best, times_s in runs
            ]
            median = float(np.median(times))
            rows.append(
                {
                    "arm": arm,
                    "validation_dice": level,
                    "num_runs": len(times),
                    "num_reached": int(np.isfinite(times).sum()),
                    "median_s": median if np.isfinite(median) else np.nan,
                }
            )
    return pd.DataFrame(rows)
