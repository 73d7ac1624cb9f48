"""What a training needs of its configuration and its slices; what it needs of memory: `memory`."""

from hemaseg.config import RunConfig
from hemaseg.errors import ConfigError, TrainingError
from hemaseg.models.catalogue import model_class, require_image_size
from hemaseg.models.cost import model_cost
from hemaseg.slices.dataset import SliceSet


def require_trainable(config: RunConfig) -> None:
    """Check that the network can be built and takes slices of the recipe's size.

    Raises:
        ConfigError: It cannot.
    """
    size = config.recipe.slices.image_size
    try:
        model_cost(config.model.name, config.model.options, image_size=size)
    except ValueError as error:
        raise ConfigError(
            f'model "{config.model.name}" with options {config.model.options} and image_size '
            f"{size}: {error}"
        ) from error


def require_lesions(training: SliceSet, validation: SliceSet) -> None:
    """Check that there is something to learn, and to choose the best epoch by.

    Raises:
        TrainingError: A set has no lesion.
    """
    for name, slices in (("training", training), ("validation", validation)):
        if not len(slices) or not slices.has_lesion.any():
            raise TrainingError(
                f"the {name} set has {len(slices)} marked slices and no lesion, expected at "
                "least one lesion. Check the masks, split again, or raise slices.image_size if "
                "the lesions are so small that they vanish."
            )


def require_size(config: RunConfig, num_lesion_slices: int) -> None:
    """Check that the network can halve the slices, and normalise the last batch of an epoch.

    Raises:
        ConfigError: It cannot.
    """
    recipe = config.recipe
    size, batch_size = recipe.slices.image_size, recipe.training.batch_size
    per_pass = recipe.training.slices_per_pass
    require_image_size(config.model.name, size)
    # Sizes of what goes through the network at once: parts of whole batches and of the last one.
    parts = {
        min(batch - start, per_pass)
        for batch in (min(batch_size, num_lesion_slices), num_lesion_slices % batch_size)
        for start in range(0, batch, per_pass)
    }
    if size == model_class(config.model.name).stride and 1 in parts:
        raise ConfigError(
            f"at slices.image_size {size} the bottleneck of {config.model.name} is one pixel, and "
            f"of {num_lesion_slices} slices in batches of {batch_size}, {per_pass} at once, one "
            "would be alone: nothing to normalise over. Change the image size or a batch size in "
            "the recipe."
        )
