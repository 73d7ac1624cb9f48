"""What weights are worth: every figure of their card.

    python scripts/measure_weights.py RUN --sich sich.csv --without lgg.csv -o results/weights/NAME

`sich.csv` is the index of ct-phe-sich (see `train_weights.py`); `--part` takes subjects of
`configs/weights/sich-split.json`. Synthetic heads are of seeds that no training used. Written are a
row per subject (`sich.csv`, `heads.csv`), `summary.csv`, and pictures of the synthetic heads with
the lowest Dice and of the first ones (`worst.png`, `examples.png`); scans of patients are not
shown.

On ct-phe-sich Dice is pooled over the slices of a subject that have a silver mask. Its other slices
are not proof of no blood, so the share of them with at least `MIN_PIXELS` marked pixels is an upper
bound of false alarms.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, stats

from hemaseg.cohorts.split import parts, read_split
from hemaseg.cohorts.table import read_cohort
from hemaseg.engines.engine import Engine, load_engine
from hemaseg.metrics.confidence import SoftOverlap, soft_overlap
from hemaseg.metrics.overlap import dice
from hemaseg.phantoms.heads import Head, HeadOptions, synthesise
from hemaseg.prediction.predict import probabilities
from hemaseg.slices.dataset import scaled_images
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import ModelRecord

SPLIT = Path(__file__).parents[1] / "configs" / "weights" / "sich-split.json"
FIRST_SEED = 900_000
"""Of the heads for measuring; training takes seeds far below."""
MIN_PIXELS = 10
"""A slice is a false alarm from as many marked pixels (of 256x256) on; fewer are called noise."""
MIN_LESION_ML = 1.0
CARD_COLUMNS = {
    "num_subjects": "subjects",
    "median_dice": "median Dice",
    "dice_q1": "lower quartile",
    "dice_q3": "upper quartile",
    "mean_dice": "mean Dice",
    "share_dice_below_0.1": "share missed (Dice < 0.1)",
    "lesion_sensitivity": "found of lesions from 1 mL",
    "alarm_share": "slices without blood that are marked",
    "spearman_of_confidence": "rank correlation of confidence with Dice",
}
"""Columns of `summary.csv` and their names in the card."""


def segment(
    network: Engine, model: ModelRecord, voxels: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], SoftOverlap]:
    """The mask of scaled voxels, and how much the network trusts it."""
    found = probabilities(network, voxels, model.image_size, model.temperature)
    mask = found >= model.threshold
    return mask, soft_overlap(found, mask)


def sich_rows(network: Engine, model: ModelRecord, index: Path, part: str) -> pd.DataFrame:
    """A row per subject of ct-phe-sich."""
    cohort = read_cohort(index)
    chosen = getattr(parts(read_split(SPLIT), cohort, 0), part) if part != "all" else cohort
    rows = []
    slices: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.bool_] | None]]] = {}
    trust: dict[str, SoftOverlap] = {}
    for image in scaled_images(chosen, model.intensity):
        subject, (found, sums) = image.case.subject, segment(network, model, image.voxels)
        slices.setdefault(subject, []).append((found, image.mask))
        trust[subject] = trust.get(subject, SoftOverlap()) + sums
    for subject, masks in slices.items():
        marked = [(found, wanted) for found, wanted in masks if wanted is not None]
        unmarked = [found for found, wanted in masks if wanted is None]
        found, wanted = (np.stack([pair[i] for pair in marked]) for i in (0, 1))
        rows.append(
            {
                "subject": subject,
                "dice": dice(found, wanted),
                "confidence": trust[subject].confidence,
                "reference_pixels": int(wanted.sum()),
                "prediction_pixels": int(found.sum()),
                "num_marked_slices": len(marked),
                "num_missed_slices": sum(
                    bool(w.any() and not (f & w).any()) for f, w in zip(found, wanted, strict=True)
                ),
                "num_unmarked_slices": len(unmarked),
                "num_alarm_slices": sum(int(mask.sum()) >= MIN_PIXELS for mask in unmarked),
            }
        )
    return pd.DataFrame(rows)


def alarm_rows(network: Engine, model: ModelRecord, index: Path) -> pd.DataFrame:
    """A row per subject of a cohort in which nobody has a hematoma."""
    rows = []
    for image in scaled_images(read_cohort(index), model.intensity):
        mask, _ = segment(network, model, image.voxels)
        rows += [(image.case.subject, int(plane.sum()) >= MIN_PIXELS) for plane in mask]
    slices = pd.DataFrame(rows, columns=["subject", "is_alarm"])
    counts = slices.groupby("subject")["is_alarm"].agg(["size", "sum"]).reset_index()
    return counts.rename(columns={"size": "num_slices", "sum": "num_alarm_slices"})


def head_row(
    network: Engine, model: ModelRecord, seed: int, options: HeadOptions
) -> dict[str, object]:
    """A row of a synthetic head."""
    head = synthesise(seed, options)
    scale = intensity_range(head.voxels, head.modality, model.intensity, name=str(seed))
    mask, sums = segment(network, model, scale.scale(head.voxels))
    without = ~head.mask.any(axis=(1, 2)) & ~head.ventricular_mask.any(axis=(1, 2))
    alarms = mask.sum(axis=(1, 2)) >= MIN_PIXELS
    voxel_ml = abs(float(np.linalg.det(head.affine[:3, :3]))) / 1000
    num_lesions, num_found = lesions(head, mask, voxel_ml)
    return {
        "seed": seed,
        "modality": head.modality,
        "sequence": head.sequence,
        "is_export": options.is_export,
        "age": head.age,
        "sites": "; ".join(hematoma.site for hematoma in head.hematomas),
        "hematoma_ml": round(head.hematoma_ml, 3),
        "prediction_ml": round(float(mask.sum()) * voxel_ml, 3),
        "dice": dice(mask, head.mask) if head.mask.any() else float("nan"),
        "confidence": sums.confidence,
        "num_lesions": num_lesions,
        "num_found_lesions": num_found,
        "num_slices_without_blood": int(without.sum()),
        "num_alarm_slices": int((alarms & without).sum()),
    }


def lesions(head: Head, mask: NDArray[np.bool_], voxel_ml: float) -> tuple[int, int]:
    """Lesions of at least `MIN_LESION_ML`, and those of which a tenth or more is marked."""
    labelled, count = ndimage.label(head.mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(labelled[mask], minlength=count + 1)[1:]
    is_large = sizes * voxel_ml >= MIN_LESION_ML
    return int(is_large.sum()), int((is_large & (covered >= 0.1 * sizes)).sum())


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
            row["modality"], turned=row["modality"] == "CT", is_export=row["is_export"]
        )
        head = synthesise(row["seed"], options)
        scale = intensity_range(head.voxels, head.modality, model.intensity, name="")
        shown = scale.scale(head.voxels)
        mask, _ = segment(network, model, shown)
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


def summary(name: str, table: pd.DataFrame, alarms_of: str) -> dict[str, object]:
    """The figures of a set."""
    scores = table["dice"].dropna()
    row: dict[str, object] = {
        "set": name,
        "num_subjects": len(table),
        "num_with_dice": len(scores),
        "median_dice": round(float(scores.median()), 4),
        "mean_dice": round(float(scores.mean()), 4),
        "dice_q1": round(float(scores.quantile(0.25)), 4),
        "dice_q3": round(float(scores.quantile(0.75)), 4),
        "share_dice_below_0.1": round(float((scores < 0.1).mean()), 4),
        "alarm_share": round(float(table["num_alarm_slices"].sum() / table[alarms_of].sum()), 4),
    }
    both = table[["dice", "confidence"]].dropna()
    rank = stats.spearmanr(both["dice"], both["confidence"]).statistic
    row["spearman_of_confidence"] = round(float(rank), 4)
    if "num_lesions" in table:
        found, count = table["num_found_lesions"].sum(), table["num_lesions"].sum()
        row["lesion_sensitivity"] = round(float(found / count), 4)
    return row


def card_table(result: pd.DataFrame) -> str:
    """The figures as the card has them; a dash where there is none."""
    lines = ["| set | " + " | ".join(CARD_COLUMNS.values()) + " |"]
    lines.append("| --- |" + " ---: |" * len(CARD_COLUMNS))
    for row in result.to_dict("records"):
        cells = [str(row["set"])]
        for column in CARD_COLUMNS:
            value = float(row.get(column, math.nan))
            digits = 0 if column.startswith("num") else 3
            cells.append("-" if math.isnan(value) else f"{value:.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the figures and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sich", type=Path)
    parser.add_argument("--without", type=Path, help="index of a cohort in which no hematoma is")
    parser.add_argument("--part", choices=("train", "validation", "test", "all"), default="test")
    parser.add_argument("--num-heads", type=int, default=60, help="of each kind")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    network, model = load_engine(options.run)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    if options.sich is not None:
        table = sich_rows(network, model, options.sich, options.part)
        table.to_csv(options.output / "sich.csv", index=False, lineterminator="\n")
        rows.append(summary(f"ct-phe-sich, {options.part}", table, "num_unmarked_slices"))
    if options.without is not None:
        table = alarm_rows(network, model, options.without)
        table.to_csv(options.output / "without.csv", index=False, lineterminator="\n")
        slices, alarms = table["num_slices"].sum(), table["num_alarm_slices"].sum()
        rows.append(
            {
                "set": "no hematoma",
                "num_subjects": len(table),
                "alarm_share": round(float(alarms / slices), 4),
            }
        )
    kinds = {
        "synthetic CT": HeadOptions("CT", turned=True),
        "synthetic CT, 8-bit": HeadOptions("CT", turned=True, is_export=True),
        "synthetic MRI": HeadOptions("MRI"),
    }
    tables = []
    for number, (name, asked) in enumerate(kinds.items()):
        if model.modality not in ("", asked.modality):
            continue
        first = FIRST_SEED + 10_000 * number
        table = pd.DataFrame(
            head_row(network, model, seed, asked)
            for seed in range(first, first + options.num_heads)
        )
        tables.append(table)
        if len(table):
            rows.append(summary(name, table, "num_slices_without_blood"))
    pd.concat(tables).to_csv(options.output / "heads.csv", index=False, lineterminator="\n")
    heads = pd.concat(tables).dropna(subset="dice")
    worst = heads.sort_values("dice").groupby("modality").head(6)
    draw(network, model, worst, options.output / "worst.png")
    draw(network, model, heads.groupby("modality").head(6), options.output / "examples.png")
    result = pd.DataFrame(rows)
    result.to_csv(options.output / "summary.csv", index=False, lineterminator="\n")
    print(card_table(result))


if __name__ == "__main__":
    main()
