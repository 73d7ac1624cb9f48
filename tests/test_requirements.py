import re

import pytest

from hemaseg.config import ModelConfig, Recipe, RunConfig
from hemaseg.errors import ConfigError
from hemaseg.training.requirements import require_size, require_trainable


def settings(model: str = "unet", image_size: int = 32, **options: int) -> RunConfig:
    recipe = {
        "description": "test",
        "slices": {"image_size": image_size},
        "training": {"batch_size": 4},
    }
    return RunConfig(
        model=ModelConfig(name=model, options={**options} or {"base_width": 4}),
        recipe=Recipe.model_validate(recipe),
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (settings("vnet"), 'model "vnet" is unknown, expected one of unet, dr_unet'),
        (settings(base_widht=4), 'no option "base_widht", expected one of base_width'),
        (settings(image_size=100), "image size 100x100, expected multiples of 32"),
    ],
)
def test_what_cannot_be_trained_is_refused(config: RunConfig, words: str) -> None:
    require_trainable(settings())
    with pytest.raises(ConfigError, match=re.escape(words)):
        require_trainable(config)


def test_image_size_that_the_network_cannot_halve_is_refused() -> None:
    words = "image_size is 72, expected a multiple of 32 for model unet, such as 96"
    with pytest.raises(ConfigError, match=words):
        require_size(settings(image_size=72), 8)


def test_last_batch_of_one_slice_with_a_one_pixel_bottleneck_is_refused() -> None:
    words = "of 9 slices in batches of 4, 4 at once, one would be alone"
    with pytest.raises(ConfigError, match=words):
        require_size(settings(), 9)
    require_size(settings(), 10)
    require_size(settings(image_size=64), 9)
