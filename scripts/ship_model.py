"""Make a run folder one of the models that ship, with its weights rounded to float16.

    python scripts/ship_model.py RUN NAME [--card CARD.md] [--folder src/hemaseg/weights]

Copies `model.json` and the card (`RUN/card.md` unless given), rounds the weights, and compares the
two networks on random pictures. Refuses to ship what rounding changes too much. Prints the largest
change of a probability, the share of pixels that change sides of the threshold, size and SHA-256.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hemaseg.engines.engine import TorchEngine
from hemaseg.errors import CheckpointError, ConfigError, HemasegError
from hemaseg.files import write_text
from hemaseg.prediction.predict import probabilities
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    ModelRecord,
    RunRecord,
    load_model,
    read_record,
    save_weights,
    write_record,
)
from hemaseg.weights import CARD, SHIPPED, ShippedModel, shipped_model

NUM_PICTURES = 4
MAX_CHANGE = 0.02
"""Largest change of a probability with which a model ships."""
MAX_BYTES = 25_000_000
"""Of all files of a model."""


@dataclass(frozen=True)
class Change:
    """What rounding did to predictions on random pictures.

    Attributes:
        probability: Largest change of a probability.
        share_turned: Share of pixels that are on the other side of the threshold.
    """

    probability: float
    share_turned: float


def ship(run: Path, name: str, *, card: Path, folder: Path) -> tuple[ShippedModel, Change]:
    """Write the model into `folder / name`, all of it or nothing.

    Raises:
        CheckpointError: The run is unfinished, incomplete or damaged, or rounding changes it.
        ConfigError: There is such a model, no card, or the files are too large.
    """
    target = folder / name
    if target.exists():
        raise ConfigError(f"{target}: exists. Choose another name, or delete it first.")
    if not card.is_file():
        raise ConfigError(
            f"{card}: no such file, expected what the model was trained on, what it scores and "
            "what it must not be used for. Write it."
        )
    before, record = load_model(run)
    if (run / RUN).exists():
        status = read_record(run / RUN, RunRecord).status
        if status != "complete":
            raise CheckpointError(f"{run}: its training is {status}, expected complete. Finish it.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        made = Path(partial) / name
        sha256 = save_weights(made, before, is_float16=True)
        # All else that the record says holds for the rounded weights too, wherever they are used;
        # how far volumes were off holds for scans like those of its study alone.
        update = {"weights_sha256": sha256, "volume_errors_cbrt_ml": ()}
        write_record(record.model_copy(update=update), made / MODEL)
        write_text(made / CARD, card.read_text(encoding="utf-8"))
        num_bytes = sum(path.stat().st_size for path in made.iterdir())
        if num_bytes > MAX_BYTES:
            raise ConfigError(
                f"{run}: {num_bytes:,} bytes after rounding, expected at most {MAX_BYTES:,}. "
                "Ship a smaller network."
            )
        after, _ = load_model(made)
        change = compare(before, after, record)
        if not change.probability <= MAX_CHANGE:
            raise CheckpointError(
                f"{run / WEIGHTS}: rounding changes a probability by {change.probability:.3g}, "
                f"expected at most {MAX_CHANGE}. These weights cannot be stored as float16."
            )
        shutil.move(made, target)
    return shipped_model(target), change


def compare(before: nn.Module, after: nn.Module, record: ModelRecord) -> Change:
    """Predict random pictures, from smooth to noise, with two networks in evaluation mode.

    Probabilities are calibrated, as those of prediction are: a temperature below 1 makes more of
    what rounding changes.
    """
    image_size, threshold = record.image_size, record.threshold
    random = torch.Generator().manual_seed(0)
    pictures = []
    for index in range(NUM_PICTURES):
        edge = max(2, image_size >> index)
        noise = torch.rand(1, 1, edge, edge, generator=random)
        pictures.append(nn.functional.interpolate(noise, (image_size, image_size))[0, 0])
    stack = torch.stack(pictures).numpy()
    one, other = (
        probabilities(TorchEngine(network), stack, image_size, record.temperature)
        for network in (before, after)
    )
    return Change(
        float(np.abs(one - other).max()), float(((one >= threshold) != (other >= threshold)).mean())
    )


def main() -> None:
    """Ship one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of hemaseg train")
    parser.add_argument("name", help="what --model shall take")
    parser.add_argument("--card", type=Path, help="text about the model; RUN/card.md unless given")
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="folder of shipped models")
    options = parser.parse_args()
    card = options.card or options.run / CARD
    try:
        model, change = ship(options.run, options.name, card=card, folder=options.folder)
    except HemasegError as error:
        sys.exit(f"ship_model: {error}")
    print(f"{options.folder / model.name}: {model.network}, {model.num_parameters:,} parameters")
    print(
        f"largest change of a probability {change.probability:.2g}, "
        f"{change.share_turned:.2%} of pixels on the other side of the threshold"
    )
    print(f"{WEIGHTS}: {model.num_bytes:,} bytes, SHA-256 {model.sha256}")


if __name__ == "__main__":
    main()
