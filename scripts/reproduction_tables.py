"""The tables of three documents in docs/, made from what is in results/.

    python scripts/reproduction_tables.py            # writes them into the documents
    python scripts/reproduction_tables.py --check    # exits with 1 if a document differs

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from hemaseg.comparison.paired import compare, paper_analysis
from hemaseg.comparison.published import replay_anova

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results"
DOCUMENTS = tuple(
    REPOSITORY / "docs" / name for name in ("reproduction.md", "performance.md", "guarantees.md")
)
STUDIES = {"lgg": "lgg-two-core", "sich": "sich-two-core"}
PAPER_TABLE1 = {"dr_unet": (0.8361, 0.156), "dense_unet": (0.8281, 0.1727), "unet": (0.8359, 0.131)}
MODELS = ("unet", "dr_unet", "dense_unet")


def read(study: str, name: str) -> pd.DataFrame:
    """A table of a study in results/."""
    return pd.read_csv(RESULTS / STUDIES[study] / f"{name}.csv", dtype={"arm": str, "subject": str})


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def scores_table(study: str) -> str:
    """Dice per subject of each arm, with what it missed and invented."""
    summary, scores = read(study, "summary"), read(study, "scores")
    rows = []
    for row in summary.itertuples():
        own = scores[scores["arm"] == row.arm]
        has_lesion = own["reference_pixels"] > 0
        missed = int(((own["dice"] == 0) & has_lesion).sum())
        rows.append(
            [
                f"`{row.arm}`",
                f"{row.num_subjects}",
                f"{row.mean:.3f} ({row.sd:.3f})",
                f"{row.ci_low:.3f} to {row.ci_high:.3f}",
                f"{row.median:.3f}",
                f"{row.run_sd:.3f}",
                f"{missed} of {int(has_lesion.sum())}",
                f"{own['num_false_alarm_slices'].sum()} of "
                f"{own['num_slices_without_lesion'].sum()}",
            ]
        )
    head = ["arm", "subjects", "Dice: mean (SD)", "95 % interval", "median", "SD of run means"]
    return markdown([*head, "missed subjects", "false-alarm slices"], rows)


def pairs_table(study: str) -> str:
    """The planned pairs."""
    rows = [
        [
            f"`{row.arm_a}` - `{row.arm_b}`",
            f"{row.num_subjects}",
            f"{row.mean_difference:+.3f}",
            f"{row.ci_low:+.3f} to {row.ci_high:+.3f}",
            p_value(float(str(row.p_holm))),
            p_value(float(str(row.tost_p_holm))),
            str(row.verdict).replace("_", " "),
        ]
        for row in read(study, "pairs").itertuples()
    ]
    head = ["pair (a - b)", "subjects", "mean difference", "95 % interval", "p (Holm)"]
    return markdown([*head, "p equivalence (Holm)", "verdict"], rows)


def recipes_table(study: str) -> str:
    """Our recipe against the paper's, each subject's Dice averaged over the three networks."""
    scores = read(study, "scores")
    scores["arm"] = scores["arm"].str.split("-").str[-1]
    means = scores.groupby(["arm", "fold", "seed", "subject"], as_index=False)[["dice"]].mean()
    pair = compare(means, margin=0.05, pairs=[("ours", "paper")]).pairs.iloc[0]
    row = [
        "ours - paper's",
        f"{pair['num_subjects']}",
        f"{pair['mean_difference']:+.3f}",
        f"{pair['ci_low']:+.3f} to {pair['ci_high']:+.3f}",
        p_value(pair["p"]),
    ]
    head = ["recipe, mean of the three networks", "subjects", "mean difference"]
    return markdown([*head, "95 % interval", "p"], [row])


def paper_table(study: str) -> str:
    """Table I: mean and SD per test batch of the arms under the paper's recipe, and the ANOVA."""
    batches = read(study, "scores_batches")
    analysis = paper_analysis(batches[batches["arm"].str.endswith("-paper")])
    found = analysis.table1.set_index("arm")
    rows = []
    for model in MODELS:
        mean, sd = PAPER_TABLE1[model]
        own = found.loc[f"{model}-paper"]
        rows.append(
            [
                model,
                f"{mean:.4f} ({sd:.4f})",
                f"{own['mean']:.4f} ({own['sd']:.4f})",
                f"{own['num_batches']:.0f}",
            ]
        )
    means, sds = zip(*PAPER_TABLE1.values(), strict=True)
    theirs = replay_anova(means, sds, 64).p
    rows.append(["ANOVA p", f"{theirs:.4f} (n = 64 each)", f"{analysis.anova.p:.4g}", ""])
    return markdown(["model", "paper: mean (SD)", "ours: mean (SD)", "our batches"], rows)


def training_table(study: str) -> str:
    """Time and epochs of each arm."""
    costs = read(study, "costs")
    rows = []
    for arm, own in costs.groupby("arm", sort=False):
        rows.append(
            [
                f"`{arm}`",
                f"{own['num_parameters'].iloc[0]:,}",
                f"{own['num_multiply_adds'].iloc[0] / 1e6:.0f} M",
                f"{own['epoch_s'].min():.1f} to {own['epoch_s'].max():.1f}",
                f"{own['best_epoch'].min()} to {own['best_epoch'].max()} of "
                f"{own['num_epochs'].max()}",
                f"{own['inference_slices_per_s'].max():.0f}",
            ]
        )
    head = ["arm", "parameters", "multiply-adds", "s per epoch", "best epoch"]
    return markdown([*head, "slices per s, best run"], rows)


def full_size_table() -> str:
    """What the networks cost at full size, measured by scripts/measure_costs.py."""
    costs = pd.read_csv(RESULTS / "costs-full-size.csv").set_index("model")
    if "activations" in costs:
        costs = costs[costs["activations"] == "kept"]
    unet = costs.loc["unet"]
    rows = [
        [
            str(model),
            f"{row['num_parameters']:,.0f}",
            f"{row['num_multiply_adds'] / 1e9:.2f} G",
            f"{row['training_step_s']:.1f} "
            f"({row['training_step_s'] / unet['training_step_s']:.2f})",
            f"{row['prediction_ms_per_slice']:.0f} "
            f"({row['prediction_ms_per_slice'] / unet['prediction_ms_per_slice']:.2f})",
            f"{row['prediction_peak_mib'] / 1024:.2f}",
        ]
        for model, row in costs.iterrows()
    ]
    head = ["model", "parameters", "multiply-adds", "s per training step (ratio to U-Net)"]
    head += ["ms per predicted slice (ratio)", "prediction peak, GiB"]
    return markdown(head, rows)


def memory_table() -> str:
    """Peak memory of training with activations kept and recomputed, and the price in time."""
    costs = pd.read_csv(RESULTS / "costs-memory.csv").set_index("model")
    all_kept = costs[costs["activations"] == "kept"]
    all_recomputed = costs[costs["activations"] == "recomputed"]
    rows = []
    for model in MODELS:
        kept, recomputed = all_kept.loc[model], all_recomputed.loc[model]
        peaks = [
            f"{way[key]:,.0f}"
            for way in (kept, recomputed)
            for key in ("training_peak_mib", "predicted_training_peak_mib")
        ]
        time = recomputed["training_step_cpu_s"] / kept["training_step_cpu_s"]
        rows.append([model, f"{4 * kept['num_parameters'] / 2**20:.0f}", *peaks, f"{time:.2f}"])
    head = ["model", "weights, MiB", "kept: peak, MiB", "predicted"]
    return markdown([*head, "recomputed: peak, MiB", "predicted", "time of a step, ratio"], rows)


def limits_table() -> str:
    """What the machine of the benchmark can do."""
    limits = json.loads((RESULTS / "bench.json").read_text(encoding="utf-8"))["ceilings"]
    rows = [
        [name, *(f"{limits[key][kind]:,.0f} GFLOP/s" for kind in ("fp32", "bf16"))]
        for name, key in (
            ("matrix product", "matrix_gflops"),
            ("3x3 convolution", "convolution_gflops"),
        )
    ]
    rows.append(["copying memory", f"{limits['bandwidth_gb_per_s']:.0f} GB/s", ""])
    return markdown([f"{limits['num_threads']} threads", "fp32", "bf16"], rows)


def bench_table(model: str) -> str:
    """How each way to run a network did, beside PyTorch as it comes."""
    name = "bench-mri.json" if model == "mri" else "bench.json"
    results = json.loads((RESULTS / name).read_text(encoding="utf-8"))["results"]
    head = ["run by", "in", "ms per slice", "times as fast", "of the limit", "load, s"]
    head += ["first slice, s", "peak, MiB", "mask pixels flipped", "Dice", "volume"]
    rows = []
    # Networks of other tools stand beside the one that they are most like.
    models = (model, "its own") if model == "unet" else (model,)
    for row in results:
        if row["model"] not in models:
            continue
        if row["problem"]:
            rows.append([row["contender"], row["precision"], row["problem"], *[""] * 8])
            continue
        own = row["flipped"] is None
        rows.append(
            [
                row["contender"],
                row["precision"],
                f"{row['slice_ms']:.1f} ({row['fastest_ms']:.1f} to {row['slowest_ms']:.1f})",
                f"{row['ratio']:.2f}",
                f"{row['roofline']:.0%}",
                f"{row['load_s']:.1f}",
                f"{row['first_s']:.2f}",
                f"{row['peak_mib']:,.0f}",
                "its own network" if own else f"{row['flipped']:.1e}",
                "-" if own else f"{row['dice']:.5f}",
                "-" if own else f"{row['volume_error']:+.3%}",
            ]
        )
    return markdown(head, rows)


def study_table() -> str:
    """Whole processes of `hemaseg predict`, with the parts that take longest."""
    studies = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))["studies"]
    rows = []
    for row in studies:
        num, parts = row["num_studies"], row["parts_s"]
        spread = f" ({row['fastest_s']:.2f} to {row['slowest_s']:.2f})"
        shown = [parts["start and loading"], parts["network"], parts.get("seg", 0.0)]
        rows.append(
            [
                f"{row['file_format']}, {num}",
                f"{row['num_turns']}",
                f"{row['whole_s']:.2f}{spread if row['num_turns'] > 1 else ''}",
                f"{row['whole_s'] / num:.2f}",
                f"{row['peak_mib']:,.0f}",
                *(f"{value / num:.2f}" for value in (*shown, sum(parts.values()) - sum(shown))),
            ]
        )
    head = ["studies in a call", "processes", "s", "per study: s", "peak, MiB"]
    return markdown([*head, "start and loading", "network", "DICOM SEG", "all else"], rows)


def steps_table() -> str:
    """Training steps, ours beside PyTorch as it comes."""
    rows = [
        [
            str(row.model),
            str(row.way),
            f"{row.step_s:.2f}",
            f"{row.fastest_s:.2f}",
            f"{row.slowest_s:.2f}",
            f"{row.times_as_fast:.2f}",
        ]
        for row in pd.read_csv(RESULTS / "training-steps.csv").itertuples()
    ]
    return markdown(["network", "way", "s/step", "from", "to", "times as fast"], rows)


def decoding_table() -> str:
    """What the runs of a study save that share decoded slices."""
    names = {
        "sich.csv": ["ct-phe-sich, 2,772 pictures", "570"],
        "lgg.csv": ["mri-lgg-flair, 2,027 pictures", "2,027"],
        "heads.csv": ["24 synthetic heads of 32x512x512, NIfTI", "768"],
    }
    rows = [
        [
            *names[str(row.cohort)],
            f"{row.part_decoded_s:.2f}",
            f"{row.all_written_s:.2f}",
            f"{row.part_read_s:.2f}",
        ]
        for row in pd.read_csv(RESULTS / "decoding.csv").itertuples()
    ]
    head = ["cohort", "slices", "a part (2/3) decoded, s", "all decoded and written, s"]
    return markdown([*head, "the part from there, s"], rows)


def int8_table() -> str:
    """Time of a slice by precision, and how many times as fast int8 is as bf16."""
    figures = pd.read_csv(RESULTS / "int8.csv")
    rows = []
    for name in ("ct", *MODELS):
        own = figures[(figures["network"] == name) & (figures["what"] == "ms per slice")]
        times = dict(zip(own["precision"], own["value"].astype(float), strict=True))
        shown = [f"{times[precision]:.1f}" for precision in ("fp32", "bf16", "int8")]
        rows.append([name, *shown, f"{times['bf16'] / times['int8']:.2f}"])
    return markdown(["network", "fp32, ms", "bf16, ms", "int8, ms", "bf16 to int8"], rows)


def gpu_steps_table() -> str:
    """Training steps on a GPU, one change after the other."""
    rows = [
        [
            str(row.model),
            str(row.way),
            f"{row.step_ms:.1f}",
            f"{row.slices_per_s:.0f}",
            f"{row.times_as_fast:.2f}",
            f"{row.share_of_peak:.1%}",
        ]
        for row in pd.read_csv(RESULTS / "gpu-steps.csv").itertuples()
    ]
    head = ["network", "way", "ms/step", "slices/s", "times as fast", "of the largest product"]
    return markdown(head, rows)


def curves_table() -> str:
    """What is learned in each precision: mean and SD over seeds."""
    rows = [
        [
            str(row["model"]),
            str(row["precision"]),
            *(
                f"{row[key]:.3f} (SD {row[f'{key}_sd']:.3f})"
                for key in ("training_loss", "validation_loss", "validation_dice")
            ),
        ]
        for _, row in pd.read_csv(RESULTS / "training-curves.csv").iterrows()
    ]
    head = ["network", "precision", "training loss", "validation loss", "validation Dice"]
    return markdown(head, rows)


def growth_table() -> str:
    """Time and memory against what they grow with.

    The exponent p is the slope of the least-squares line through the logarithms: values grow with
    the p-th power. Against the edge of a slice it is that of its number of pixels.
    """
    growth = pd.read_csv(RESULTS / "growth.csv")
    rows: list[list[str]] = []
    for key, own in growth.groupby(["what", "against", "unit"], sort=False):
        what, against, unit = map(str, key)
        size = own["at"] ** 2 if against == "edge" else own["at"]
        exponent = float(np.polyfit(np.log(size), np.log(own["value"]), 1)[0])
        values = [
            f"{at}: {value:.0f}" if value >= 1000 else f"{at}: {value:.4g}"
            for at, value in zip(own["at"], own["value"], strict=True)
        ]
        shown = "pixels (edge)" if against == "edge" else against
        # Rounded to zero from below, it is no -0.00.
        rows.append([what, shown, unit, ", ".join(values), f"{round(exponent, 2) + 0.0:.2f}"])
    return markdown(["what", "against", "unit", "values", "exponent"], rows)


def guarantees_table() -> str:
    """What the guarantees cost, a column for each network."""
    costs = pd.read_csv(RESULTS / "costs-guarantees.csv").pivot(
        index="what", columns="model", values="value"
    )
    rows = [
        [words, *(form.format(costs.loc[what, model]) for model in MODELS)]
        for what, words, form in (
            ("checkpoint_mib", "a checkpoint, MiB", "{:.0f}"),
            ("checkpoint_write_s", "writing it, s", "{:.2f}"),
            ("checkpoint_share_of_run", "writing one every 300 s, of a run's time", "{:.2%}"),
            ("checkpoint_restore_s", "reading it and putting everything back, s", "{:.2f}"),
            ("deterministic_step_ratio", "a deterministic step, of one that is not", "{:.2f}"),
            ("two_processes_step_ratio", "two processes of one thread, of one of two", "{:.2f}"),
        )
    ]
    return markdown(["", *MODELS], rows)


def p_value(p: float) -> str:
    """A p value as it is printed in tables."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


COST_TABLES: dict[str, Callable[[], str]] = {
    "full-size": full_size_table,
    "memory": memory_table,
    "limits": limits_table,
    "study": study_table,
    "training-steps": steps_table,
    "gpu-steps": gpu_steps_table,
    "int8": int8_table,
    "decoding": decoding_table,
    "training-curves": curves_table,
    "growth": growth_table,
    "guarantees": guarantees_table,
    **{
        f"bench-{model}": partial(bench_table, model)
        for model in ("ct", "mri", "dr_unet", "unet", "dense_unet")
    },
}
STUDY_TABLES: dict[str, Callable[[str], str]] = {
    "scores": scores_table,
    "pairs": pairs_table,
    "recipes": recipes_table,
    "paper": paper_table,
    "training": training_table,
}


def filled(text: str) -> str:
    """The document with every table made anew."""

    def table(match: re.Match[str]) -> str:
        study, _, name = match[1].partition("-")
        made = STUDY_TABLES[name](study) if study in STUDIES else COST_TABLES[match[1]]()
        return f"<!-- table: {match[1]} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> int:
    """Write or check the documents; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    is_current = True
    for document in DOCUMENTS:
        old = document.read_text(encoding="utf-8")
        new = filled(old)
        is_current &= old == new
        if not is_check:
            document.write_text(new, encoding="utf-8")
        elif old != new:
            print(f"{document.name}: tables differ from results/")
    return int(is_check and not is_current)


if __name__ == "__main__":
    sys.exit(main())
