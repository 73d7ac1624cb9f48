"""Which slices a report shows, and their reading: image, reference, and the mask of each arm."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemaseg.errors import ComparisonError
from hemaseg.reporting.study_folder import REMEDY, StudyFolder, read_table
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.scan import Scan
from hemaseg.studies.runs import run_path


@dataclass(frozen=True)
class Example:
    """One slice with the masks of all arms; all planes are (H, W).

    Attributes:
        role: Why this slice is shown, such as "best".
        subject: The person.
        slice: Name of the slice within the subject.
        image: Grey values, anterior at the top.
        display_range: The grey values drawn black and white.
        pixel_aspect: Row spacing over column spacing.
        reference: The reference mask.
        predictions: One mask for each arm, in the order of the arms.
        dice: Dice of each of them on this slice; NaN where it is undefined.
    """

    role: str
    subject: str
    slice: str
    image: NDArray[Any]
    display_range: tuple[float, float]
    pixel_aspect: float
    reference: NDArray[np.bool_]
    predictions: tuple[NDArray[np.bool_], ...]
    dice: tuple[float, ...]


def read_examples(study: StudyFolder) -> tuple[Example, ...]:
    """The largest slice of the best, the median and the worst subject; () without predictions.

    Subjects are ranked by their mean Dice over arms and runs. Ranked are those with a lesion and
    with one scan, because `predictions.csv` does not tell scans of one subject apart.

    Raises:
        ComparisonError: Tables or masks do not belong to these scores.
        ScanError: An image or mask cannot be read.
    """
    predicted = (study.path / "runs").glob("*/*/predictions/predictions.csv")
    if study.slices is None or not any(predicted):
        return ()
    num_scans = study.slices.groupby("subject")["scan"].nunique()
    ranked = study.scores[
        (study.scores["reference_pixels"] > 0)
        & study.scores["subject"].isin(num_scans.index[num_scans == 1])
    ]
    cells = ranked.pivot(index=["subject", "fold", "seed"], columns="arm", values="dice")
    cells = cells.reindex(columns=list(study.arms)).dropna()
    means = cells.mean(axis="columns").groupby("subject").mean().sort_values(kind="stable")
    ranking = list(means.index)
    roles: dict[str, str] = {}
    for role, place in (("best", -1), ("median", len(ranking) // 2), ("worst", 0)):
        if ranking:
            roles.setdefault(ranking[place], role)
    return tuple(
        _read_example(study, role, next(cell for cell in cells.index if cell[0] == subject))
        for subject, role in roles.items()
    )


def _read_example(study: StudyFolder, role: str, cell: tuple[str, str, str]) -> Example:
    """The slice with the largest reference area of one subject in one fold and seed."""
    assert study.slices is not None
    subject, fold, seed = cell
    slices = study.slices
    in_cell = (slices["subject"] == subject) & (slices["fold"] == fold) & (slices["seed"] == seed)
    rows = slices[in_cell].sort_values("reference_pixels", ascending=False, kind="stable")
    if set(rows["arm"]) != set(study.arms):
        raise ComparisonError(
            f"{study.path / 'scores_slices.csv'}: subject {subject}, fold {fold}, seed {seed} has"
            f" slices of {', '.join(rows['arm'].unique()) or 'no arm'}, but scores.csv knows it"
            f" for {', '.join(study.arms)}. {REMEDY}"
        )
    slice_name = rows["slice"].iloc[0]
    dice = rows[rows["slice"] == slice_name].set_index("arm")["dice"].reindex(study.arms)
    predictions = []
    for arm in study.arms:
        path = study.path / run_path(arm, fold, seed) / "predictions" / "predictions.csv"
        shown = _predicted_row(path, subject, slice_name)
        predictions.append(_plane(read_mask(path.parent / shown["prediction"]), slice_name))
    # All arms predicted the same image, so the last one tells as well as any where that lies.
    scan = read_scan(path.parent / shown["image"])
    image = _plane(scan, slice_name)
    label = _label(shown.get("label", ""), path)
    reference = _plane(read_mask(path.parent / shown["reference"], label=label), slice_name)
    for name, mask in (("reference", reference), *zip(study.arms, predictions, strict=True)):
        if mask.shape != image.shape:
            raise ComparisonError(
                f"{scan.path}: {image.shape} pixels, but the mask of {name} has {mask.shape}."
                " Predict with this run again."
            )
    cohort = None if study.provenance is None else study.provenance.cohort
    _, row_mm, column_mm = scan.spacing_mm or (1.0, 1.0, 1.0)
    return Example(
        role=role,
        subject=subject,
        slice=slice_name,
        image=image,
        display_range=_display_range(image, "" if cohort is None else cohort.modality),
        pixel_aspect=row_mm / column_mm,
        reference=reference,
        predictions=tuple(predictions),
        dice=tuple(dice),
    )


def _predicted_row(path: Path, subject: str, slice_name: str) -> "pd.Series[str]":
    """The row of a slice in a list of predictions."""
    table = read_table(path)
    # A volume is one row with an empty slice, a stack is one row for each slice.
    shown = table[(table["subject"] == subject) & table["slice"].isin(["", slice_name])]
    if len(shown) != 1:
        raise ComparisonError(
            f"{path}: {len(shown)} rows for subject {subject}, slice {slice_name}, expected 1."
            " Predict with this run again."
        )
    return shown.iloc[0]


def _label(text: str, path: Path) -> int | None:
    """Which label of the reference counts; None where the field is empty or not there."""
    if text and not re.fullmatch("[1-9][0-9]{0,17}", text):
        raise ComparisonError(
            f"{path}: label {text!r}, expected a whole number from 1 upward, or an empty field."
            " Predict with this run again."
        )
    return int(text) if text else None


def _plane(scan: Scan, slice_name: str) -> NDArray[Any]:
    """(H, W), the slice of a volume whose index is its name, or the one slice of a picture."""
    num_slices = len(scan.voxels)
    index = 0
    if num_slices > 1:
        index = int(slice_name) if slice_name.isdecimal() else num_slices
    if index >= num_slices:
        raise ComparisonError(
            f"{scan.path}: has slices 0 to {num_slices - 1}, but scores_slices.csv names slice"
            f" {slice_name}. {REMEDY}"
        )
    plane: NDArray[Any] = scan.voxels[index]
    return plane


def _display_range(image: NDArray[Any], modality: str) -> tuple[float, float]:
    """Values shown black and white: percentiles; for CT 0 to 100 HU, or all of an 8-bit picture."""
    if modality == "CT":
        return (0.0, 255.0) if image.dtype == np.uint8 else (0.0, 100.0)
    black, white = np.percentile(image, (1, 99.5))
    return float(black), float(white)
