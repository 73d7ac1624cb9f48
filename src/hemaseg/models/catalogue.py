"""Which networks there are, by name, and how one is built from a configuration."""

import inspect
from collections.abc import Mapping

from hemaseg.config import Option
from hemaseg.errors import ConfigError
from hemaseg.models.blocks import Network
from hemaseg.models.dense_unet import DenseUNet
from hemaseg.models.dr_unet import DRUNet
from hemaseg.models.textbook_unet import TextbookUNet
from hemaseg.models.unet import UNet

MODELS: dict[str, type[Network]] = {
    "unet": UNet,
    "dr_unet": DRUNet,
    "dense_unet": DenseUNet,
    "textbook_unet": TextbookUNet,
}
"""Name -> class. Adding an architecture is one file and one line here."""


def model_class(name: str) -> type[Network]:
    """The class of a network.

    Raises:
        ConfigError: If there is none of this name; lists the known ones.
    """
    if name not in MODELS:
        raise ConfigError(f'model "{name}" is unknown, expected one of {", ".join(MODELS)}')
    return MODELS[name]


def require_image_size(name: str, image_size: int) -> None:
    """Check that a network can halve slices of so many rows and columns as often as it does.

    Raises:
        ConfigError: It cannot, or there is no such network.
    """
    stride = model_class(name).stride
    if image_size % stride:
        raise ConfigError(
            f"image_size is {image_size}, expected a multiple of {stride} for model {name}, such "
            f"as {-(-image_size // stride) * stride}"
        )


def build_model(name: str, options: Mapping[str, Option] | None = None) -> Network:
    """A network with fresh weights, drawn from torch's global random state.

    Args:
        name: A key of `MODELS`.
        options: Keyword arguments of its class, as in `[model.options]` of a configuration.

    Raises:
        ConfigError: If name or an option is unknown (lists the known ones), or a value is refused.

    >>> build_model("dr_unet", {"base_width": 8}).stride
    32
    """
    cls = model_class(name)
    known = list(inspect.signature(cls).parameters)
    options = dict(options or {})
    for option in options:
        if option not in known:
            raise ConfigError(
                f'model "{name}" has no option "{option}", expected one of {", ".join(known)}'
            )
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'model "{name}" with options {options}: {error}') from error
    except RuntimeError as error:  # Sizes that overflow, or that no memory holds.
        raise ConfigError(
            f'model "{name}" with options {options}: no network can be that large. Correct the '
            "options."
        ) from error
