"""The mean of two networks' weights: of what one learnt after the other, half is taken back.

    python scripts/average_weights.py second third --seeds 101860 540 --held-out 40 --upright
        --head-size 192 --masses 1 --every 4 --jobs 2 -o run

Both are runs of one network; the second one's record counts for all else. The temperature is fitted
anew on the held-out heads of these seeds, and the other heads say what scans look like.

*Source:* Wortsman et al., CVPR 2022 (arXiv 2109.01903), who average a network with what fine-tuning
made of it, and lose less of what it knew.
"""

import argparse
import sys
from pathlib import Path

import torch
from train_weights import add_head_options, of_seeds

from hemaseg.config import Recipe
from hemaseg.errors import ConfigError, HemasegError
from hemaseg.slices.dataset import SliceSet
from hemaseg.training.checkpoint import MODEL, load_model, save_weights, write_record
from hemaseg.training.doubt import add_doubt


def average(
    first: Path, second: Path, training: SliceSet, validation: SliceSet, output: Path
) -> None:
    """Write the model whose weights and running statistics are the means of two.

    Args:
        first: A run folder.
        second: Another one, of the same network.
        training: What scans look like.
        validation: On which the temperature is fitted.
        output: A folder; what model it holds is replaced.

    Raises:
        CheckpointError: A run is incomplete or damaged.
        ConfigError: They are not of one network.
    """
    (network, record), (other, other_record) = load_model(first), load_model(second)
    if record.model != other_record.model:
        raise ConfigError(
            f"{first}, {second}: {record.model} and {other_record.model}, expected one network. "
            "Give two runs of one."
        )
    ones, others = network.state_dict(), other.state_dict()
    means = {
        key: (ones[key] + value) / 2 if value.is_floating_point() else value
        for key, value in others.items()
    }
    network.load_state_dict(means)
    output.mkdir(parents=True, exist_ok=True)
    sha256 = save_weights(output, network)
    write_record(other_record.model_copy(update={"weights_sha256": sha256}), output / MODEL)
    print(add_doubt(output, training, validation, device=torch.device("cpu"), batch_size=16))


def main() -> None:
    """Average two runs, or say what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "NUM"), required=True)
    add_head_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        record = load_model(options.second)[1]
        options.modality = record.modality
        recipe = Recipe.model_validate(
            {
                "description": "heads",
                "slices": {"image_size": record.image_size},
                "intensity": record.intensity,
            }
        )
        average(options.first, options.second, *of_seeds(options, recipe), options.output)
    except (HemasegError, OSError) as error:
        sys.exit(f"average_weights: {error}")


if __name__ == "__main__":
    main()
