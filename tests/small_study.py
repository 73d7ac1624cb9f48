"""A small study folder with all its files, for the tests of the report and of its parts."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hemaseg.cohorts.split import Fold, Split, write_split
from hemaseg.comparison.detection import detection
from hemaseg.comparison.learning import time_to_dice
from hemaseg.comparison.sites import describe_sites
from hemaseg.comparison.volumes import subject_volumes, volume_agreement

ARMS = ("DR-U-Net", "Dense-U-Net", "U-Net")
RUNS = ((0, 0), (0, 1), (1, 0), (1, 1))
SLICES = ("1", "2", "10")


def make_study(
    folder: Path, *, arms: tuple[str, ...] = ARMS, num_subjects: int = 6, size: int = 24
) -> Path:
    """A study folder with all its files: subjects in two folds, two seeds, three slices each."""
    rng = np.random.default_rng(20240501)
    subjects = [f"P{number:02d}" for number in range(num_subjects)]
    folder.mkdir()
    slices = _slices(rng, arms, subjects)
    scores = _scores(rng, slices)
    slices.to_csv(folder / "scores_slices.csv", index=False)
    scores.to_csv(folder / "scores.csv", index=False)
    _write_runs(folder, rng, arms, subjects, size)
    training = _training(rng, arms)
    training.to_csv(folder / "training.csv", index=False)
    time_to_dice(training).to_csv(folder / "time_to_dice.csv", index=False)
    _costs(rng, arms).to_csv(folder / "costs.csv", index=False)
    _write_comparison(folder, scores, arms)
    _write_json_files(folder, subjects)
    (folder / "study.toml").write_text(
        'name = "small"\n[cohort]\npath = "cohort.csv"\n[training]\nlearning_rate = 0.001\n'
    )
    return folder


def _slices(rng: np.random.Generator, arms: tuple[str, ...], subjects: list[str]) -> pd.DataFrame:
    rows = []
    for (place, subject), name in itertools.product(enumerate(subjects), SLICES):
        has_lesion = name != "1"
        area = int(rng.lognormal(5, 1)) if has_lesion else 0
        difficulty = rng.beta(6, 2)
        for (fold, seed), arm in itertools.product(RUNS, arms):
            if fold == place % 2:
                dice = float(np.clip(difficulty + rng.normal(0, 0.05), 0, 1))
                rows.append(
                    {
                        "arm": arm,
                        "fold": fold,
                        "seed": seed,
                        "subject": subject,
                        "scan": subject,
                        "slice": name,
                        "dice": dice if has_lesion else None,
                        "reference_pixels": area,
                        "has_lesion": has_lesion,
                        "false_alarm": not has_lesion and rng.random() < 0.3,
                    }
                )
    return pd.DataFrame(rows)


def _scores(rng: np.random.Generator, slices: pd.DataFrame) -> pd.DataFrame:
    groups = slices.groupby(["arm", "fold", "seed", "subject"], sort=False)
    scores = groups.agg(
        num_slices=("slice", "size"),
        dice=("dice", "mean"),
        reference_pixels=("reference_pixels", "sum"),
        num_slices_without_lesion=("has_lesion", lambda values: int((~values).sum())),
        num_false_alarm_slices=("false_alarm", "sum"),
    ).reset_index()
    scores["iou"] = scores["dice"] / (2 - scores["dice"])
    scores["hd95_mm"] = 5 + rng.gamma(2, 2, len(scores))
    scores["reference_ml"] = scores["reference_pixels"] / 1000
    scores["prediction_ml"] = scores["reference_ml"] * (1.1 - 0.3 * (1 - scores["dice"]))
    scores["prediction_pixels"] = (1000 * scores["prediction_ml"]).round()
    scores["num_reference_lesions"], scores["num_detected_lesions"] = 2, 1
    scores["num_false_lesions"] = scores["num_false_alarm_slices"]
    scores["site"] = np.where(scores["subject"] < "P04", "A", "B")
    return scores


def _training(rng: np.random.Generator, arms: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for place, (arm, (fold, seed)) in enumerate(itertools.product(arms, RUNS)):
        num_epochs = 8 + place % 3
        losses = 0.2 + 0.6 * np.exp(-np.arange(num_epochs) / 3) + rng.normal(0, 0.02, num_epochs)
        for epoch, loss in enumerate(losses, start=1):
            rows.append(
                {
                    "arm": arm,
                    "fold": fold,
                    "seed": seed,
                    "epoch": epoch,
                    "training_loss": loss - 0.05,
                    "validation_loss": loss,
                    "validation_dice": 1 - loss,
                    "learning_rate": 0.001,
                    "epoch_s": 30.0 + 10 * arms.index(arm),
                    "cumulative_s": epoch * (30.0 + 10 * arms.index(arm)),
                    "slices_per_s": 50.0,
                    "peak_memory_mib": 2000.0,
                }
            )
    return pd.DataFrame(rows)


def _costs(rng: np.random.Generator, arms: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": arm,
            "fold": fold,
            "seed": seed,
            "model": f"model_{arms.index(arm)}",
            "num_parameters": 10_953_249 + 10_000_000 * arms.index(arm),
            "num_multiply_adds": 12_345_678_901,
            "num_epochs": 9,
            "best_epoch": 7,
            "epoch_s": 30.0 + rng.normal(),
            "training_s": 270.0 + rng.normal(),
            "inference_slices_per_s": 40.0 + 10 * arms.index(arm) + rng.normal(),
            "peak_memory_mib": 2000.0,
            "device": "cpu",
        }
        for arm, (fold, seed) in itertools.product(arms, RUNS)
    )


def _write_comparison(folder: Path, scores: pd.DataFrame, arms: tuple[str, ...]) -> None:
    """Tables of the right form; the intervals are plain normal ones."""
    summary, pairs, differences = [], [], []
    for metric in ("dice", "iou", "hd95_mm"):
        by_subject = scores.groupby(["arm", "subject"])[metric].mean()
        for arm in arms:
            own = by_subject[arm]
            half = 1.96 * own.std() / len(own) ** 0.5
            runs = scores[scores["arm"] == arm].groupby(["fold", "seed"])[metric].mean()
            summary.append(
                {
                    "metric": metric,
                    "arm": arm,
                    "num_subjects": len(own),
                    "num_undefined": 0,
                    "mean": own.mean(),
                    "sd": own.std(),
                    "median": own.median(),
                    "q1": own.quantile(0.25),
                    "q3": own.quantile(0.75),
                    "ci_low": own.mean() - half,
                    "ci_high": own.mean() + half,
                    "run_sd": runs.std(),
                }
            )
        for number, (arm_a, arm_b) in enumerate(itertools.combinations(arms, 2)):
            difference = by_subject[arm_a] - by_subject[arm_b]
            mean, half = difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5
            pairs.append(
                {
                    "metric": metric,
                    "arm_a": arm_a,
                    "arm_b": arm_b,
                    "num_subjects": len(difference),
                    "num_undefined": 0,
                    "mean_difference": mean,
                    "ci_low": mean - half,
                    "ci_high": mean + half,
                    "p_holm": (0.0001234, 0.04321, 1.0)[number % 3],
                    "wilcoxon_p_holm": 0.2345,
                    "hedges_gz": mean / difference.std(),
                    "margin": 0.02 if metric == "dice" else None,
                    "tost_p_holm": 0.0345 if metric == "dice" else None,
                    "verdict": ("a_better", "equivalent", "undecided")[number % 3],
                    "sentence": f"{arm_a} and {arm_b} differ by {mean:.3f} in {metric}.",
                    "num_subjects_to_decide": (None, None, 321)[number % 3],
                }
            )
            differences.append(
                pd.DataFrame(
                    {
                        "metric": metric,
                        "arm_a": arm_a,
                        "arm_b": arm_b,
                        "subject": difference.index,
                        "score_a": by_subject[arm_a].to_numpy(),
                        "score_b": by_subject[arm_b].to_numpy(),
                        "difference": difference.to_numpy(),
                    }
                )
            )
    described = pd.DataFrame(summary).drop(columns=["ci_low", "ci_high", "run_sd"])
    described.assign(num_infinite=0).to_csv(folder / "all_metrics.csv", index=False)
    volumes = subject_volumes(scores)
    volumes.to_csv(folder / "volumes.csv", index=False)
    volume_agreement(volumes).to_csv(folder / "volume_agreement.csv", index=False)
    detection(scores).to_csv(folder / "detection.csv", index=False)
    describe_sites(scores, "dice").to_csv(folder / "sites.csv", index=False)
    pd.DataFrame(summary).to_csv(folder / "summary.csv", index=False)
    pd.DataFrame(pairs).to_csv(folder / "pairs.csv", index=False)
    pd.concat(differences).to_csv(folder / "differences.csv", index=False)
    pd.DataFrame(
        {
            "arm": arm,
            "num_batches": 64,
            "mean": 0.8361 - 0.004 * place,
            "sd": 0.156,
        }
        for place, arm in enumerate(arms)
    ).to_csv(folder / "table1.csv", index=False)
    comparison = {
        "metric": "dice",
        "higher_is_better": True,
        "margin": 0.02,
        "alpha": 0.05,
        "verdict": f"{arms[0]} is better than {arms[1]}; the other pairs are undecided.",
        "anova": {"f": 0.0561, "p": 0.9455, "df_between": 2, "df_within": 189},
        "friedman": {"statistic": 5.25, "p": 0.0724},
        "notes": ["Four runs for each arm."],
        "paper_notes": ["It takes every batch as independent."],
    }
    (folder / "comparison.json").write_text(json.dumps(comparison))


def _write_json_files(folder: Path, subjects: list[str]) -> None:
    provenance = {
        "created": "2026-11-22T17:00:00+00:00",
        "hemaseg": "0.1.0",
        "command": "hemaseg compare small.toml",
        "python": "3.11.2",
        "torch": "2.15.0",
        "numpy": "2.4.6",
        "scipy": "1.17.1",
        "platform": "Linux",
        "processor": "x86_64",
        "device": "cpu",
        "num_threads": 2,
        "cohort": {
            "name": "phantoms",
            "num_subjects": len(subjects),
            "num_images": len(subjects) * len(SLICES),
            "num_images_with_lesion": len(subjects) * 2,
            "sites": {"A": 4, "B": len(subjects) - 4},
            "modality": "MRI",
            "sha256": "c0ffee" * 10,
            "description": "Synthetic heads, no patient.",
        },
        "split": {"method": "folds", "unit": "subject", "seed": 5, "sha256": "5b", "num_folds": 2},
        "warnings": [],
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    folds = tuple(
        Fold(
            train=tuple(subjects[1 - fold :: 2][1:]),
            validation=tuple(subjects[1 - fold :: 2][:1]),
            test=tuple(subjects[fold::2]),
        )
        for fold in (0, 1)
    )
    write_split(Split("folds", "subject", 5, "c0ffee" * 10, folds), folder / "split.json")


def _write_runs(
    folder: Path, rng: np.random.Generator, arms: tuple[str, ...], subjects: list[str], size: int
) -> None:
    """A bright square per slice as image; squares beside it as masks."""
    images = folder / "images"
    images.mkdir()
    for subject, name in itertools.product(subjects, SLICES):
        image = rng.integers(30, 90, (size, size), dtype=np.uint8)
        mask = np.zeros((size, size), dtype=np.uint8)
        if name != "1":
            mask[size // 4 : size // 2, size // 4 : size // 2] = 255
        Image.fromarray(np.maximum(image, mask // 255 * 200)).save(images / f"{subject}_{name}.png")
        Image.fromarray(mask).save(images / f"{subject}_{name}_mask.png")
    (folder / "runs").mkdir()
    (folder / "runs" / "study.toml").write_text(
        'name = "small"\ndescription = ""\ncohort = "cohort.csv"\n[comparison]\nmargin = 0.02\n'
        + "".join(f'[[arms]]\nname = "{arm}"\nmodel = "unet"\nrecipe = "r"\n' for arm in arms)
    )
    for (fold, seed), arm in itertools.product(RUNS, arms):
        run = folder / "runs" / arm / f"fold-{fold}_seed-{seed}"
        predictions = run / "predictions"
        predictions.mkdir(parents=True)
        (run / "config.toml").write_text(f'seed = {seed}\n[recipe]\ndescription = "of {arm}"\n')
        (run / "model.json").write_text(json.dumps({"threshold": 0.5, "temperature": 1.5 + seed}))
        calibration = None if arm == arms[0] else {"ece": 0.02, "calibrated_ece": 0.01}
        (run / "run.json").write_text(json.dumps({"calibration": calibration}))
        rows = []
        for subject, name in itertools.product(subjects[fold::2], SLICES):
            mask = np.zeros((size, size), dtype=np.uint8)
            if name != "1":
                mask[size // 4 + arms.index(arm) : size // 2, size // 4 : size // 2 + 1] = 255
            Image.fromarray(mask).save(predictions / f"{subject}_{name}.png")
            rows.append(
                {
                    "subject": subject,
                    "slice": name,
                    "image": f"../../../../images/{subject}_{name}.png",
                    "reference": f"../../../../images/{subject}_{name}_mask.png",
                    "prediction": f"{subject}_{name}.png",
                }
            )
        pd.DataFrame(rows).to_csv(predictions / "predictions.csv", index=False)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def change_table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
