"""How long `hemaseg predict` takes for one study, from the start of the process to all files.

    python scripts/measure_predict.py [--format dicom] [--turns 3] [--probability] [--engine auto]
    python scripts/measure_predict.py --studies 1 10 100

A synthetic head of 32 slices of 512x512 and the DR U-Net at full size with random weights, which
cost what trained ones do. Each turn is a new process. Printed are the least and the median seconds
over the turns: the least is what other programs disturbed least. The parts are what the case record
says, the rest is start, imports, search and loading; what imports take of it is measured by
processes that do nothing else.

With `--studies`, each number of studies (the same head as NIfTI) is predicted in one call: seconds
per study, and the peak memory of the process, which must not grow with the number.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.phantoms.dicom_writing import write_series
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.writing import write_nifti
from hemaseg.training.checkpoint import save_model

MODEL = ModelConfig(name="dr_unet")
IMAGE_SIZE = 256


def write_run(folder: Path) -> None:
    """A run folder of a network that has learned nothing, whose masks are a tenth of the pixels."""
    folder.mkdir()
    torch.manual_seed(0)
    network = build_model(MODEL.name).eval()
    with torch.inference_mode():
        probabilities = network(torch.rand(1, 1, IMAGE_SIZE, IMAGE_SIZE)).sigmoid()
    save_model(
        folder,
        network,
        MODEL,
        image_size=IMAGE_SIZE,
        intensity=IntensityConfig(),
        threshold=float(probabilities.quantile(0.9)),
        modality="CT",
    )


def seconds(*arguments: object) -> float:
    """Wall time of a process of this Python."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - start


def print_studies(scan: Path, run: Path, counts: list[int], folder: Path, engine: str) -> None:
    """The table of many studies in one call."""
    print("| studies in one call | s | s per study | peak MiB |\n| ---: | ---: | ---: | ---: |")
    for count in counts:
        studies = folder / f"studies{count}"
        studies.mkdir()
        for number in range(count):
            (studies / f"study{number:03}.nii.gz").hardlink_to(scan)
        output = folder / f"masks{count}"
        command = ("-m", "hemaseg", "predict", studies, "--model", run, "-o", output)
        words = [*map(str, command), "--device", "cpu", "--engine", engine]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        whole_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peak_mib = usage.ru_maxrss / 1024
        print(f"| {count} | {whole_s:.1f} | {whole_s / count:.2f} | {peak_mib:.0f} |", flush=True)


def main() -> None:
    """Print the parts, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=("dicom", "nifti"), default="dicom")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--probability", action="store_true")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--studies", type=int, nargs="+")
    options = parser.parse_args()
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "run")
        head = synthesise(
            1,
            HeadOptions(
                num_slices=32, image_size=512, slice_mm=5.0, pixel_mm=0.45, num_hematomas=1
            ),
        )
        if options.format == "dicom" and not options.studies:
            write_series(head, 1, scan := folder / "head")
        else:
            write_nifti(head.voxels, head.affine, scan := folder / "head.nii.gz")
        if options.studies:
            print_studies(scan, folder / "run", options.studies, folder, options.engine)
            return
        for turn in range(options.turns):
            output = folder / f"out{turn}"
            command = ("-m", "hemaseg", "predict", scan, "--model", folder / "run", "-o", output)
            more = ["--engine", options.engine, *["--probability"] * options.probability]
            whole_s = seconds(*command, *more, "--device", "cpu")
            parts = json.loads((output / "head" / "head.json").read_text())["seconds"]
            rest_s = whole_s - sum(parts.values())
            turns.append({"whole process": whole_s, "start, search, loading": rest_s, **parts})
            for module in ("torch", "hemaseg.prediction.cases"):
                turns[-1][f"(import {module})"] = seconds("-c", f"import {module}")
    print(f"{'seconds':<34} {'least':>6} {'median':>6}")
    for part in turns[0]:
        taken = [turn[part] for turn in turns]
        print(f"{part:<34} {min(taken):6.2f} {statistics.median(taken):6.2f}")


if __name__ == "__main__":
    main()
