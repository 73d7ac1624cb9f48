"""How long `hemaseg predict` takes for one study, from the start of the process to all files.

    python scripts/measure_predict.py [--format dicom] [--turns 3] [--probability]

A synthetic head of 32 slices of 512x512 and the DR U-Net at full size with random weights, which
cost what trained ones do. Each turn is a new process. Printed are the least and the median seconds
over the turns: the least is what other programs disturbed least. The parts are what the case record
says, the rest is start, imports, search and loading; what imports take of it is measured by
processes that do nothing else.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.scans.phantoms import Phantom, phantom
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


def write_nifti(head: Phantom, path: Path) -> None:
    """The head as a scanner's converter writes it."""
    image = nib.Nifti1Image(head.voxels.transpose(), head.affine[:, [2, 1, 0, 3]])
    nib.save(image, path)


def write_dicom(head: Phantom, folder: Path) -> None:
    """The head as a DICOM series."""
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    # Display order is (superior, posterior, left), DICOM's axes are (left, posterior, superior).
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ head.affine
    for k, pixels in enumerate(head.voxels):
        data_set = Dataset()
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data_set.SOPClassUID, data_set.SOPInstanceUID = CTImageStorage, generate_uid()
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = study, series
        data_set.FrameOfReferenceUID, data_set.Modality = frame, "CT"
        data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data_set.SeriesNumber, data_set.InstanceNumber = 1, k + 1
        data_set.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data_set.ImagePositionPatient = [round(float(x), 4) for x in (to_lps @ [k, 0, 0, 1])[:3]]
        data_set.PixelSpacing = [float(-head.affine[1, 1]), float(-head.affine[0, 2])]
        data_set.SliceThickness = float(head.affine[2, 0])
        data_set.Rows, data_set.Columns = pixels.shape
        data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
        data_set.BitsAllocated = data_set.BitsStored = 16
        data_set.HighBit, data_set.PixelRepresentation = 15, 1
        data_set.RescaleSlope, data_set.RescaleIntercept = 1, 0
        data_set.PixelData = pixels.tobytes()
        data_set.save_as(folder / f"{k:03}.dcm", enforce_file_format=True)


def seconds(*arguments: object) -> float:
    """Wall time of a process of this Python."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the parts, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=("dicom", "nifti"), default="dicom")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--probability", action="store_true")
    options = parser.parse_args()
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "run")
        head = phantom(1, shape=(32, 512, 512), spacing_mm=(5.0, 0.45, 0.45))
        if options.format == "dicom":
            write_dicom(head, scan := folder / "head")
        else:
            write_nifti(head, scan := folder / "head.nii.gz")
        for turn in range(options.turns):
            output = folder / f"out{turn}"
            command = ("-m", "hemaseg", "predict", scan, "--model", folder / "run", "-o", output)
            more = ["--probability"] * options.probability
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
