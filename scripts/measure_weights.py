"""What weights are worth: every figure of their card.

    python scripts/measure_weights.py RUN --sich sich.csv --without lgg.csv -o results/weights/NAME

`sich.csv` is the index of ct-phe-sich (see `train_weights.py`); `--part` takes subjects of
`configs/weights/sich-split.json`. Synthetic heads are of seeds that no training used. Written are a
row per subject (`sich.csv`, `heads.csv`), `summary.csv`, and pictures of the synthetic heads with
the lowest Dice and of the first ones (`worst.png`, `examples.png`); scans of patients are not
shown.

    python scripts/measure_weights.py RUN --sich sich.csv --part validation --first-seed 950000
        --num-heads 40 --min-lesion-ml 0,0.02,0.05,0.1,0.2,0.5 -o results/weights/NAME

asks instead what `hemaseg predict --min-lesion-ml` would change: every scan is predicted once and
cleaned with each limit, and `cleanup.csv` alone is written, a row per set and limit. Choose on
other heads and patients than those of the card. ct-phe-sich has no spacing, so that the volumes
there are **assumed**: `SICH_MM` is what would be usual for its stacks of 24 to 32 slices of
256x256 pixels (a field of view of 230 mm, slices of 5 mm).

On ct-phe-sich Dice is pooled over the slices of a subject that have a silver mask. Its other slices
are not proof of no blood, so the share of them with at least `MIN_PIXELS` marked pixels is an upper
bound of false alarms.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hemaseg.cohorts.split import parts, read_split
from hemaseg.cohorts.table import read_cohort
from hemaseg.engines.engine import Engine, load_engine
from hemaseg.engines.options import EngineOptions
from hemaseg.errors import HemasegError
from hemaseg.metrics.confidence import SoftOverlap, soft_overlap
from hemaseg.metrics.lesions import label_lesions
from hemaseg.metrics.overlap import dice
from hemaseg.phantoms.heads import Head, HeadOptions, synthesise
from hemaseg.prediction.cleanup import remove_small_lesions
from hemaseg.prediction.predict import probabilities
from hemaseg.slices.dataset import scaled_images
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import ModelRecord

SPLIT = Path(__file__).parents[1] / "configs" / "weights" / "sich-split.json"
FIRST_SEED = 900_000
"""Of the heads for measuring; training takes seeds far below."""
MIN_PIXELS = 10
"""A slice is a false alarm from as many marked pixels (of 256x256) on; fewer are called noise."""
LARGE_ML = 1.0
"""From this volume on a lesion of a synthetic head is expected to be found."""
SICH_MM = (5.0, 0.9, 0.9)
"""Assumed distance of slices, rows and columns of ct-phe-sich, whose pictures do not say it."""
CARD_COLUMNS = {
    "num_subjects": "subjects",
    "num_with_dice": "with blood",
    "median_dice": "median Dice (95 % interval)",
    "dice_q1": "lower quartile",
    "dice_q3": "upper quartile",
    "mean_dice": "mean Dice",
    "share_dice_below_0.1": "missed (Dice < 0.1)",
    "lesion_sensitivity": "found of lesions from 1 mL",
    "recent_lesion_sensitivity": "of these, in the first week",
    "alarm_share": "slices without blood that are marked",
    "person_alarm_share": "subjects with such a slice",
    "specificity": "subjects without blood, nothing marked",
    "spearman_of_confidence": "rank correlation of confidence with Dice",
}
"""Columns of `summary.csv` and their names in the card.

Beside NAME there, `NAME_count` and `NAME_of` are the numbers that a share is of, `NAME_low` and
`NAME_high` an interval, and `NAME_of` alone how many subjects a figure is of.
"""
CLEANUP_COLUMNS = {
    "min_lesion_ml": "smallest lesion kept (mL)",
    "median_dice": "median Dice",
    "mean_dice": "mean Dice",
    "num_higher_dice": "Dice higher",
    "num_lower_dice": "Dice lower",
    "lesion_sensitivity": "found of lesions from 1 mL",
    "num_found_small_lesions": "smaller lesions found",
    "alarm_share": "slices without blood that are marked",
    "num_removed_lesions": "predicted lesions removed",
}
"""Columns of `cleanup.csv` that are printed."""
CLEANUP_ALONE = (
    *("min_lesion_ml", "num_removed_lesions", "removed_ml"),
    *("num_small_lesions", "num_found_small_lesions"),
)
"""Columns of a row that no table of the card has."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """What the network says of scaled voxels: probabilities and mask, both (K, H, W)."""

    probabilities: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def confidence(self, mask: NDArray[np.bool_]) -> float:
        """That of a mask made from this one."""
        sums = map(soft_overlap, self.probabilities, mask)
        return sum(sums, SoftOverlap()).confidence


@dataclass(frozen=True, eq=False)
class Patient:
    """A subject of ct-phe-sich.

    Attributes:
        subject: The person.
        segmented: All slices, from first to last.
        is_marked: (K,) whether a slice has a silver mask.
        reference: (number of marked slices, H, W).
    """

    subject: str
    segmented: Segmented
    is_marked: NDArray[np.bool_]
    reference: NDArray[np.bool_]

    def row(self, mask: NDArray[np.bool_]) -> dict[str, object]:
        """Scores of a mask."""
        found, alarms = mask[self.is_marked], mask[~self.is_marked].sum(axis=(1, 2)) >= MIN_PIXELS
        is_met = (found & self.reference).any(axis=(1, 2))
        return {
            "subject": self.subject,
            "dice": dice(found, self.reference),
            "confidence": self.segmented.confidence(mask),
            "reference_pixels": int(self.reference.sum()),
            "prediction_pixels": int(found.sum()),
            "num_marked_slices": len(found),
            "num_missed_slices": int((self.reference.any(axis=(1, 2)) & ~is_met).sum()),
            "num_unmarked_slices": len(alarms),
            "num_alarm_slices": int(alarms.sum()),
        }


def segment(network: Engine, model: ModelRecord, voxels: NDArray[np.float32]) -> Segmented:
    """What the network says of scaled voxels."""
    found = probabilities(network, voxels, model.image_size, model.temperature)
    return Segmented(found, found >= model.threshold)


def patients(network: Engine, model: ModelRecord, index: Path, part: str) -> Iterator[Patient]:
    """The subjects of ct-phe-sich, each of one stack."""
    cohort = read_cohort(index)
    chosen = getattr(parts(read_split(SPLIT), cohort, 0), part) if part != "all" else cohort
    images = scaled_images(chosen, model.intensity)
    for subject, slices in itertools.groupby(images, key=lambda image: image.case.subject):
        stack = list(slices)
        segmented = segment(network, model, np.concatenate([image.voxels for image in stack]))
        is_marked = np.array([image.mask is not None for image in stack])
        reference = np.concatenate([image.mask for image in stack if image.mask is not None])
        yield Patient(subject, segmented, is_marked, reference)


def alarm_rows(network: Engine, model: ModelRecord, index: Path) -> pd.DataFrame:
    """A row per subject of a cohort in which nobody has a hematoma."""
    rows = []
    for image in scaled_images(read_cohort(index), model.intensity):
        mask = segment(network, model, image.voxels).mask
        rows += [(image.case.subject, int(plane.sum()) >= MIN_PIXELS) for plane in mask]
    slices = pd.DataFrame(rows, columns=["subject", "is_alarm"])
    counts = slices.groupby("subject")["is_alarm"].agg(["size", "sum"]).reset_index()
    return counts.rename(columns={"size": "num_slices", "sum": "num_alarm_slices"})


def head_row(
    seed: int, options: HeadOptions, head: Head, segmented: Segmented, mask: NDArray[np.bool_]
) -> dict[str, object]:
    """Scores of a mask of a synthetic head."""
    without = ~head.mask.any(axis=(1, 2)) & ~head.ventricular_mask.any(axis=(1, 2))
    alarms = mask.sum(axis=(1, 2)) >= MIN_PIXELS
    num_lesions, num_found = lesions(head, mask, from_ml=LARGE_ML)
    num_small, num_found_small = lesions(head, mask, below_ml=LARGE_ML)
    return {
        "seed": seed,
        "modality": head.modality,
        "sequence": head.sequence,
        "is_export": options.is_export,
        "num_masses": options.num_masses,
        "age": head.age,
        "sites": "; ".join(hematoma.site for hematoma in head.hematomas),
        "hematoma_ml": round(head.hematoma_ml, 3),
        "prediction_ml": round(float(mask.sum()) * voxel_ml(head), 3),
        "dice": dice(mask, head.mask) if head.mask.any() else float("nan"),
        "confidence": segmented.confidence(mask),
        "num_lesions": num_lesions,
        "num_found_lesions": num_found,
        "num_slices_without_blood": int(without.sum()),
        "num_alarm_slices": int((alarms & without).sum()),
        "num_small_lesions": num_small,
        "num_found_small_lesions": num_found_small,
    }


def voxel_ml(head: Head) -> float:
    """Volume of a voxel in mL."""
    return abs(float(np.linalg.det(head.affine[:3, :3]))) / 1000


def lesions(
    head: Head, mask: NDArray[np.bool_], *, from_ml: float = 0.0, below_ml: float = math.inf
) -> tuple[int, int]:
    """Lesions from one volume to below another, and those of which a tenth or more is marked."""
    labels, count = label_lesions(head.mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(labels[mask], minlength=count + 1)[1:]
    is_meant = (sizes * voxel_ml(head) >= from_ml) & (sizes * voxel_ml(head) < below_ml)
    return int(is_meant.sum()), int((is_meant & (covered >= 0.1 * sizes)).sum())


def cleaned_rows(
    row_of: Callable[[NDArray[np.bool_]], dict[str, object]],
    mask: NDArray[np.bool_],
    one_voxel_ml: float,
    limits_ml: Sequence[float],
) -> list[dict[str, object]]:
    """A row for each `min_lesion_ml`, of the same prediction."""
    rows = []
    for limit_ml in limits_ml:
        cleaned = remove_small_lesions(mask, np.full(len(mask), one_voxel_ml), limit_ml)
        row = row_of(cleaned.mask) | {"min_lesion_ml": limit_ml}
        row["num_removed_lesions"] = cleaned.num_removed_lesions
        rows.append(row | {"removed_ml": cleaned.removed_ml})
    return rows


def cleanup_summary(name: str, table: pd.DataFrame) -> list[dict[str, object]]:
    """The figures of a set for each `min_lesion_ml`, compared with the smallest of them."""
    rows, first = [], None
    for limit_ml, part in table.groupby("min_lesion_ml"):
        scores = part["dice"].to_numpy()
        first = scores if first is None else first
        row: dict[str, object] = {"set": name, "min_lesion_ml": limit_ml}
        row |= summary(name, part)
        row["num_higher_dice"] = int((scores > first).sum())
        row["num_lower_dice"] = int((scores < first).sum())
        row["num_alarm_slices"] = int(part["num_alarm_slices"].sum())
        if "num_small_lesions" in part:
            row["num_small_lesions"] = int(part["num_small_lesions"].sum())
            row["num_found_small_lesions"] = int(part["num_found_small_lesions"].sum())
        row["num_removed_lesions"] = int(part["num_removed_lesions"].sum())
        rows.append(row | {"removed_ml": round(float(part["removed_ml"].sum()), 3)})
    return rows


def draw(network: Engine, model: ModelRecord, table: pd.DataFrame, path: Path) -> None:
    """The slice with the most blood of each head, outlined: what is there, what was found."""
    num_rows = math.ceil(len(table) / 6)
    figure, axes = plt.subplots(
        num_rows, 6, figsize=(15, 2.9 * num_rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, row in zip(axes.flat, table.to_dict("records"), strict=False):
        options = HeadOptions(
            row["modality"],
            num_masses=row["num_masses"],
            turned=row["modality"] == "CT",
            is_export=row["is_export"],
        )
        head = synthesise(row["seed"], options)
        scale = intensity_range(head.voxels, head.modality, model.intensity, name="")
        shown = scale.scale(head.voxels)
        mask = segment(network, model, shown).mask
        k = int(head.mask.sum(axis=(1, 2)).argmax())
        axis.imshow(shown[k], cmap="gray", vmin=0, vmax=1)
        for found, colour in ((head.mask[k], "tab:green"), (mask[k], "tab:red")):
            if found.any():
                axis.contour(found, [0.5], colors=colour, linewidths=0.8)
        kind = row["sequence"] or "CT"
        axis.set_title(
            f"{kind}, {row['age']}, {row['hematoma_ml']:.1f} mL\nseed {row['seed']}, "
            f"Dice {row['dice']:.2f}",
            fontsize=8,
        )
    figure.suptitle("Synthetic heads; green: hematoma, red: found", fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def summary(name: str, table: pd.DataFrame) -> dict[str, object]:
    """The figures of a set, as `CARD_COLUMNS` names them.

    The interval of the median is the exact one of order statistics. Subjects of synthetic heads
    count as without blood if no mask has any.
    """
    scores = table["dice"].dropna()
    is_of_heads = "num_slices_without_blood" in table
    row: dict[str, object] = {
        "set": name,
        "num_subjects": len(table),
        "num_with_dice": len(scores),
        "median_dice": round(float(scores.median()), 4),
        "mean_dice": round(float(scores.mean()), 4),
        "dice_q1": round(float(scores.quantile(0.25)), 4),
        "dice_q3": round(float(scores.quantile(0.75)), 4),
        **share("share_dice_below_0.1", int((scores < 0.1).sum()), len(scores)),
        **alarms(table, "num_slices_without_blood" if is_of_heads else "num_unmarked_slices"),
    }
    # The ends are the values of this rank from either side; fewer than 6 values have no interval.
    if rank := int(stats.binom.ppf(0.025, len(scores), 0.5)):
        ordered = sorted(scores)
        row["median_dice_low"] = round(ordered[rank - 1], 4)
        row["median_dice_high"] = round(ordered[-rank], 4)
    both = table[["dice", "confidence"]].dropna()
    if (both.nunique() > 1).all():
        correlation = stats.spearmanr(both["dice"], both["confidence"]).statistic
        row["spearman_of_confidence"] = round(float(correlation), 4)
        row["spearman_of_confidence_of"] = len(both)
    if is_of_heads:
        without = table[table["dice"].isna()]
        row |= share("specificity", int((without["prediction_ml"] == 0).sum()), len(without))
        recent = table[table["age"].isin(("hyperacute", "acute", "early subacute"))]
        for when, part in (("", table), ("recent_", recent)):
            found, num = int(part["num_found_lesions"].sum()), int(part["num_lesions"].sum())
            row |= share(f"{when}lesion_sensitivity", found, num)
    return row


def alarms(table: pd.DataFrame, num_slices: str) -> dict[str, object]:
    """Slices without blood that are marked, and the subjects who have one."""
    marked = table["num_alarm_slices"]
    return share("alarm_share", int(marked.sum()), int(table[num_slices].sum())) | share(
        "person_alarm_share", int((marked > 0).sum()), len(table)
    )


def share(name: str, count: int, of: int) -> dict[str, object]:
    """A share and what it is of; none of nothing."""
    if not of:
        return {}
    return {name: round(count / of, 4), f"{name}_count": count, f"{name}_of": of}


def card_table(result: pd.DataFrame, columns: Mapping[str, str] = CARD_COLUMNS) -> str:
    """The figures as the card has them; a dash where there is none."""
    lines = ["| set | " + " | ".join(columns.values()) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for row in result.to_dict("records"):
        cells = [str(row["set"])]
        for column in columns:
            found = row.get(column)
            value = math.nan if pd.isna(found) else float(found)
            if math.isnan(value):
                cells.append("-")
                continue
            shown = f"{value:.0f}" if column.startswith("num") else f"{value:.3f}"
            count, of, low, high = (
                row.get(f"{column}_{part}", math.nan) for part in ("count", "of", "low", "high")
            )
            if not pd.isna(count):
                shown += f" ({count:.0f} of {of:.0f})"
            elif not pd.isna(of):
                shown += f" (of {of:.0f})"
            elif not pd.isna(low):
                shown += f" ({low:.3f} to {high:.3f})"
            cells.append(shown)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables_of_heads(
    network: Engine, model: ModelRecord, options: argparse.Namespace, limits_ml: Sequence[float]
) -> dict[str, pd.DataFrame]:
    """By name, rows of each kind of heads that the model is for."""
    kinds = {
        "synthetic CT": HeadOptions("CT", turned=True),
        "synthetic CT, 8-bit": HeadOptions("CT", turned=True, is_export=True),
        "synthetic MRI": HeadOptions("MRI"),
        "synthetic MRI, a mass in each": HeadOptions("MRI", num_masses=1),
    }
    tables = {}
    for number, (name, asked) in enumerate(kinds.items()):
        if options.num_heads < 1 or model.modality not in ("", asked.modality):
            continue
        first, rows = options.first_seed + 10_000 * number, []
        for seed in range(first, first + options.num_heads):
            head = synthesise(seed, asked)
            scale = intensity_range(head.voxels, head.modality, model.intensity, name=str(seed))
            segmented = segment(network, model, scale.scale(head.voxels))
            row_of = partial(head_row, seed, asked, head, segmented)
            rows += cleaned_rows(row_of, segmented.mask, voxel_ml(head), limits_ml)
        tables[name] = pd.DataFrame(rows)
    return tables


def measure(options: argparse.Namespace) -> None:
    """Print the figures and write the tables."""
    network, model = load_engine(options.run, EngineOptions(options.engine, options.precision))
    if options.threshold is not None:
        model = model.model_copy(update={"threshold": options.threshold})
    options.output.mkdir(parents=True, exist_ok=True)
    limits_ml = sorted({0.0, *(options.min_lesion_ml or ())})
    tables = {}
    if options.sich is not None:
        rows = [
            row
            for patient in patients(network, model, options.sich, options.part)
            for row in cleaned_rows(
                patient.row, patient.segmented.mask, math.prod(SICH_MM) / 1000, limits_ml
            )
        ]
        tables[f"ct-phe-sich, {options.part}"] = pd.DataFrame(rows)
    heads = tables_of_heads(network, model, options, limits_ml)
    if options.min_lesion_ml:
        assumed = f", assumed {' x '.join(f'{mm:g}' for mm in SICH_MM)} mm"
        tables = {name + assumed: table for name, table in tables.items()} | heads
        result = pd.DataFrame(
            row for name, table in tables.items() for row in cleanup_summary(name, table)
        )
        counts = [column for column in result.columns if column.startswith("num_")]
        result = result.astype(dict.fromkeys(counts, "Int64"))
        write(result, options.output / "cleanup.csv")
        print(card_table(result, CLEANUP_COLUMNS))
        return
    summaries = [summary(name, table) for name, table in tables.items()]
    for table in tables.values():
        write(table, options.output / "sich.csv")
    if options.without is not None:
        table = alarm_rows(network, model, options.without)
        write(table, options.output / "without.csv")
        of_all = {"set": "no hematoma", "num_subjects": len(table), "num_with_dice": 0}
        summaries.append(of_all | alarms(table, "num_slices"))
    summaries += [summary(name, table) for name, table in heads.items()]
    if heads:
        joined = pd.concat(heads.values())
        write(joined, options.output / "heads.csv")
        scored = joined.dropna(subset="dice")
        worst = scored.sort_values("dice").groupby("modality").head(6)
        draw(network, model, worst, options.output / "worst.png")
        draw(network, model, scored.groupby("modality").head(6), options.output / "examples.png")
    result = pd.DataFrame(summaries)
    write(result, options.output / "summary.csv")
    print(card_table(result))


def write(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV; only `cleanup.csv` has columns of clean-up."""
    if path.name != "cleanup.csv":
        table = table.drop(columns=list(CLEANUP_ALONE), errors="ignore")
    table.to_csv(path, index=False, lineterminator="\n")


def volumes_ml(text: str) -> list[float]:
    """The numbers of a list like 0,0.1,0.5."""
    with suppress(ValueError):
        found = [float(word) for word in text.split(",")]
        if all(0 <= one < math.inf for one in found):
            return found
    raise argparse.ArgumentTypeError(f"{text}: expected mL from 0 upward, separated by commas")


def main() -> None:
    """Print the figures and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--sich", type=Path)
    parser.add_argument("--without", type=Path, help="index of a cohort in which no hematoma is")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threshold", type=float, help="the model's unless given")
    parser.add_argument("--part", choices=("train", "validation", "test", "all"), default="test")
    parser.add_argument("--num-heads", type=int, default=60, help="of each kind")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="of the heads")
    parser.add_argument(
        "--min-lesion-ml", type=volumes_ml, metavar="ML,ML,...", help="measure clean-up alone"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if min(options.first_seed, options.num_heads) < 0:
        parser.error("--first-seed, --num-heads: expected 0 or more")
    if options.min_lesion_ml and options.without:
        parser.error("--without: has no volumes in mL. Leave out, or leave out --min-lesion-ml.")
    try:
        measure(options)
    except (HemasegError, OSError) as error:
        sys.exit(f"measure_weights: {error}")


if __name__ == "__main__":
    main()
