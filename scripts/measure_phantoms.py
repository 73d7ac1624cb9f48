"""How many slices of synthetic heads one core makes in a second.

    OMP_NUM_THREADS=1 python scripts/measure_phantoms.py [--num 20] [--size 256]

Whole heads of as many seeds, at the slice distances that seeds draw; making them alone, and with
their files. Seconds are those of the processor, which other programs disturb least. The first head,
before which the atlas is read, does not count.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.writing import FORMATS, write_heads

Modality = Literal["CT", "MRI"]


def main() -> None:
    """Print a line for each modality and format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    print(f"{'':<14} {'slices':>7} {'s/head':>7} {'slices/s':>9}")
    for modality in get_args(Modality):
        plain = HeadOptions(modality=modality, image_size=options.size)
        synthesise(0, plain)
        start, num_slices = time.process_time(), 0
        for seed in range(1, options.num + 1):
            num_slices += len(synthesise(seed, plain).voxels)
        show(modality, num_slices, options.num, time.process_time() - start)
        for file_format in FORMATS:
            one = HeadOptions(
                modality=modality, image_size=options.size, is_export=file_format == "png"
            )
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                seeds = range(1, options.num + 1)
                write_heads(Path(folder), seeds, partial(options_of, one), file_format=file_format)
                taken_s = time.process_time() - start
            show(f"{modality} {file_format}", num_slices, options.num, taken_s)


def options_of(options: HeadOptions, _: int) -> HeadOptions:
    """The same options for each seed."""
    return options


def show(what: str, num_slices: int, num_heads: int, taken_s: float) -> None:
    """Print one line."""
    print(f"{what:<14} {num_slices:>7} {taken_s / num_heads:>7.3f} {num_slices / taken_s:>9.0f}")


if __name__ == "__main__":
    main()
