"""A trained run and a cohort to masks, each on its image's own grid.

The sigmoid lives here (and in `training.losses`): models return logits.

Shape legend: K slices of an image file, H rows, W columns on its own grid.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemaseg.cohorts.table import Cohort
from hemaseg.engines.engine import Engine, load_engine
from hemaseg.engines.options import EngineOptions
from hemaseg.files import csv_text, write_text
from hemaseg.metrics.confidence import SoftOverlap, soft_overlap
from hemaseg.prediction.paths import prediction_paths
from hemaseg.scans.images import write_mask
from hemaseg.slices.dataset import fit_back, fit_to_square, scaled_images
from hemaseg.training.device import deterministic

COLUMNS = ["subject", "slice", "image", "reference", "label", "prediction", "confidence"]
"""Of `predictions.csv`."""

_BELOW_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))


@dataclass(frozen=True)
class PredictionCost:
    """What predicting took.

    Attributes:
        num_slices: Slices that went through the network.
        network_s: Time in the network, resampling and sigmoid; reading and writing apart.
    """

    num_slices: int
    network_s: float

    @property
    def slices_per_s(self) -> float:
        """Slices per second of network time; NaN if none."""
        return self.num_slices / self.network_s if self.network_s else float("nan")


def predict_cohort(
    run_folder: Path,
    cohort: Cohort,
    folder: Path,
    *,
    engine: EngineOptions | None = None,
    marked_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictionCost:
    """Write the mask of every image of a cohort, and `predictions.csv` that lists them.

    Its `confidence` is that of the subject, pooled over all its images like every score, and so
    the same in each row of the subject.

    Args:
        run_folder: What `hemaseg train` wrote.
        cohort: The images; their references, if any, are not looked at.
        folder: Masks go to `folder/SUBJECT/NAME`; see `paths.prediction_path`.
        engine: What computes, where and how exactly.
        marked_only: Whether to leave out images without reference (they cannot be scored).
        progress: Called with the numbers of image files done and to do.

    Raises:
        CheckpointError: If the run folder is incomplete or damaged.
        CohortError, ScanError, ConfigError: If an image cannot be read, scaled or written.
        EngineError: The engine cannot run this network on this device.
    """
    chosen, record = load_engine(run_folder, engine)
    sums: dict[str, SoftOverlap] = defaultdict(SoftOverlap)
    wanted = [case for case in cohort.images if case.is_marked or not marked_only]
    path_of = dict(zip((case.id for case in wanted), prediction_paths(folder, wanted), strict=True))
    num_slices, network_s = 0, 0.0
    rows: list[dict[str, object]] = []
    # The first call of a network prepares kernels; it shall not count as its speed.
    size = record.image_size
    probabilities(chosen, np.zeros((1, size, size), np.float32), size)
    for image in scaled_images(cohort, record.intensity):
        case = image.case
        if case.id not in path_of:
            continue
        start = time.perf_counter()
        found = probabilities(chosen, image.voxels, size, record.temperature)
        mask = found >= record.threshold
        network_s += time.perf_counter() - start
        num_slices += len(mask)
        sums[case.subject] += soft_overlap(found, mask)
        path = path_of[case.id]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(mask, image.scan, path)
        rows.append(
            {
                "subject": case.subject,
                "slice": "" if case.slice is None else case.slice,
                "image": _relative(case.image, folder),
                "reference": "" if case.mask is None else _relative(case.mask, folder),
                "label": "" if case.label is None else case.label,
                "prediction": _relative(path, folder),
            }
        )
        if progress is not None:
            progress(len(rows), len(wanted))
    for row in rows:
        row["confidence"] = round(sums[str(row["subject"])].confidence, 4)
    write_text(folder / "predictions.csv", csv_text(COLUMNS, rows))
    return PredictionCost(num_slices, network_s)


def probabilities(
    engine: Engine, voxels: NDArray[np.float32], image_size: int, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Probability of lesion for each pixel of a stack.

    Args:
        engine: Images to logits.
        voxels: `(K, H, W)` in [0, 1].
        image_size: Rows and columns that the network sees; slices are fitted to it and back.
        temperature: What logits are divided by, above 0. No pixel changes sides of 0.5 by it, to
            the bit: where the mean of neighbours would, on the way back to the image's own grid,
            it stays at 0.5 or the number below.

    Returns:
        `(K, H, W)` in [0, 1].
    """
    with slice_workers(engine.num_workers) as workers:
        return begin_probabilities(engine, voxels, image_size, temperature, workers)()


@contextmanager
def slice_workers(num_workers: int) -> Iterator[Executor]:
    """Threads for the slices of one stack after the other, while PyTorch is deterministic.

    Slices that have not begun when the block ends, as by Ctrl-C, are not done.

    Args:
        num_workers: Of the engine.
    """
    # Several threads have a core each; one has all of them.
    num_cores = 1 if num_workers > 1 else torch.get_num_threads()
    with deterministic(True):
        pool = ThreadPoolExecutor(
            num_workers, initializer=torch.set_num_threads, initargs=(num_cores,)
        )
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def begin_probabilities(
    engine: Engine,
    voxels: NDArray[np.float32],
    image_size: int,
    temperature: float,
    workers: Executor,
) -> Callable[[], NDArray[np.float32]]:
    """Give a stack to `slice_workers`, which work on it while the caller does something else.

    Args:
        engine: As for `probabilities`, like what follows.
        voxels: Not to be changed meanwhile.
        image_size: As above.
        temperature: As above.
        workers: They take slices in the order in which they got them.

    Returns:
        What waits for the probabilities; it raises what a slice raised.
    """

    @torch.inference_mode()
    def of_batch(batch: Tensor) -> Tensor:
        # Rounded as the training slices are stored, so that both see the same values.
        logits = engine(fit_to_square(batch, image_size).to(torch.float16).float())
        plain = fit_back(logits.sigmoid().cpu(), *voxels.shape[1:])[:, 0]
        if temperature == 1:
            return plain
        calibrated = fit_back((logits / temperature).sigmoid().cpu(), *voxels.shape[1:])[:, 0]
        above, below = calibrated.clamp_min(0.5), calibrated.clamp_max(_BELOW_HALF)
        return torch.where(plain >= 0.5, above, below)

    found = torch.empty(voxels.shape)
    batches = torch.from_numpy(voxels)[:, None].split(engine.batch_size)

    def fill(batch: Tensor, place: Tensor) -> None:
        place.copy_(of_batch(batch))

    # Batches go to their place at once: joined at the end, the stack would be there twice.
    filled = workers.map(fill, batches, found.split(engine.batch_size))

    def wait() -> NDArray[np.float32]:
        list(filled)  # raises what a thread raised
        return found.numpy()

    return wait


def _relative(path: Path, folder: Path) -> str:
    # Path.relative_to(walk_up=True) needs Python 3.12.
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
