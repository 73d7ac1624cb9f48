"""What it saves that the runs of a study share decoded slices.

    hemaseg index ct-phe-sich --masks hematoma_silver --modality CT -o sich.csv
    hemaseg index mri-lgg-flair --modality MRI -o lgg.csv
    hemaseg phantom --num 24 --size 512 --slices 32 --num-hematomas 1 -o heads
    hemaseg index heads/heads.csv -o heads.csv
    python scripts/measure_decoding.py sich.csv lgg.csv heads.csv

Prints seconds, medians of `--turns`, at 256x256: two thirds of the subjects decoded, as for one
run; all decoded and written, by the first run; two thirds read from there, by each other run.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from hemaseg.cohorts.table import read_cohort
from hemaseg.config import Recipe
from hemaseg.slices.cache import cached_slices, remove_slices
from hemaseg.slices.dataset import load_slices


def seconds(file: Path, folder: Path) -> tuple[float, float, float]:
    """Decoding a part, decoding and writing everything, reading the part."""
    recipe = Recipe(description="256x256")
    cohort = read_cohort(file)
    cohort = cohort.select(image.subject for image in cohort.marked().images)
    part = cohort.subjects[::3] + cohort.subjects[1::3]
    times = [perf_counter()]
    load_slices(cohort.select(part), recipe)
    times.append(perf_counter())
    cached_slices(cohort, recipe, folder)
    times.append(perf_counter())
    cached_slices(cohort, recipe, folder).of_subjects(part)
    times.append(perf_counter())
    remove_slices(folder)
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


def main() -> None:
    """Print a line for each cohort."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohorts", type=Path, nargs="+")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print("cohort,part_decoded_s,all_written_s,part_read_s")
    with tempfile.TemporaryDirectory() as folder:
        for file in options.cohorts:
            turns = [seconds(file, Path(folder, "slices")) for _ in range(options.turns)]
            medians = [f"{statistics.median(column):.2f}" for column in zip(*turns, strict=True)]
            print(file.name, *medians, sep=",", flush=True)


if __name__ == "__main__":
    main()
