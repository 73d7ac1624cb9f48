"""A process that runs one network in one way, when it is told to; its memory is its own.

    python -m hemaseg.benchmark.worker CONTENDER PRECISION RUN_FOLDER IMAGES.npy LOGITS.npy THREADS

It prints a line of JSON once it is ready, and one for each line that it reads: seconds of a pass
over all images. At the end of its input it writes the logits and prints its peak memory and the
multiply-adds of the network for a slice.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from hemaseg.benchmark.contenders import contender
from hemaseg.models.cost import num_multiply_adds
from hemaseg.training.checkpoint import load_model
from hemaseg.training.device import peak_memory_mib


def main(arguments: list[str]) -> None:
    """Serve."""
    name, precision, run_folder, images_file, logits_file, num_threads = arguments
    warnings.simplefilter("ignore")  # converters warn of what they do anyway
    # What libraries print goes to standard error: standard output is for answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**values: float | None) -> None:
        print(json.dumps(values), file=answers, flush=True)

    torch.set_num_threads(int(num_threads))
    images = torch.from_numpy(np.load(images_file, allow_pickle=False))
    start = time.perf_counter()
    one, image_size = contender(name, precision), images.shape[-1]
    network = one.brings(image_size) if one.brings else load_model(Path(run_folder))[0]
    run = one.prepare(network, image_size)
    loaded = time.perf_counter()
    run(images[:1])
    answer(load_s=loaded - start, first_s=time.perf_counter() - loaded)
    logits = run(images)
    for _ in sys.stdin:
        start = time.perf_counter()
        logits = run(images)
        answer(pass_s=time.perf_counter() - start)
    np.save(logits_file, logits.float().numpy())
    answer(
        peak_mib=peak_memory_mib(torch.device("cpu")),
        multiply_adds=num_multiply_adds(network, image_size),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
