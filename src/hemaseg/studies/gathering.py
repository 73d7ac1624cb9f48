"""The tables of all runs of a study, joined."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hemaseg.comparison.learning import time_to_dice
from hemaseg.comparison.paired import write_table
from hemaseg.errors import CheckpointError
from hemaseg.evaluation.tables import read_scores
from hemaseg.studies.runs import PlannedRun
from hemaseg.training.progress import Epoch

if TYPE_CHECKING:
    from hemaseg.training.checkpoint import RunRecord


def gather(
    runs: Iterable[PlannedRun], folder: Path, *, warning: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the tables of all runs into those of the study, and write them.

    Args:
        runs: Complete.
        folder: Of the study.
        warning: Of its split; stands in every row.

    Returns:
        `scores.csv` and `scores_batches.csv`.

    Raises:
        EvaluationError, CheckpointError: A table or record of a run is missing or damaged.
    """
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    tables: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    for run in runs:
        scores = read_scores(run.score_files[0])
        record = read_record(run.folder / RUN, RunRecord)
        training = _read_training(run.folder / "training.csv", record.num_epochs_done)
        for name, table in (
            ("scores", scores.subjects),
            ("scores_slices", scores.slices),
            ("scores_batches", scores.batches),
            ("training", training),
            ("costs", _costs(run, record, training)),
        ):
            table.insert(0, "arm", run.arm.name)
            table.insert(1, "fold", run.fold)
            table.insert(2, "seed", run.config.seed)
            tables[name].append(table)
    joined = {name: pd.concat(rows, ignore_index=True) for name, rows in tables.items()}
    joined["time_to_dice"] = time_to_dice(joined["training"])
    for name, table in joined.items():
        write_table(table, folder / f"{name}.csv", warning=warning)
    return joined["scores"], joined["scores_batches"]


def _costs(run: PlannedRun, record: "RunRecord", training: pd.DataFrame) -> pd.DataFrame:
    """The one row of a run in `costs.csv`."""
    from hemaseg.models.cost import model_cost

    model = run.config.model
    size = model_cost(model.name, model.options, image_size=run.config.recipe.slices.image_size)
    return pd.DataFrame(
        {
            "model": [model.name],
            "num_parameters": [size.num_parameters],
            "num_multiply_adds": [size.num_multiply_adds],
            "num_epochs": [record.num_epochs_done],
            "best_epoch": [record.best_epoch],
            "epoch_s": [training["epoch_s"].median()],
            "training_s": [record.training_s],
            "inference_slices_per_s": [record.inference_slices_per_s],
            "peak_memory_mib": [record.peak_memory_mib],
            "device": [record.device],
            "ran_alone": [record.ran_alone],
        }
    )


def _read_training(path: Path, num_epochs: int) -> pd.DataFrame:
    """The table of a training, whose rows are its epochs; empty fields are NaN."""
    columns = [field.name for field in fields(Epoch)]
    try:
        # Not by pandas, which takes the fields that a row lacks for empty ones, and shifts rows
        # that all have one too many.
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file, strict=True)
        if header != columns:
            raise ValueError(f"columns {', '.join(header)}")
        rows = [
            [float(text or "nan") for _, text in zip(columns, line, strict=True)] for line in lines
        ]
        if [row[0] for row in rows] != [*range(1, num_epochs + 1)]:
            raise ValueError(f"{len(rows)} rows, not of the epochs 1 to {num_epochs} in this order")
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: not the table of a training ({error}), expected numbers in the columns "
            f"{', '.join(columns)}. Delete its folder to train this run again."
        ) from error
    return pd.DataFrame(rows, columns=columns).astype({"epoch": int})
