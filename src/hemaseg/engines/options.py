"""What the user asks of an engine."""

from dataclasses import dataclass

from hemaseg.errors import ConfigError

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class EngineOptions:
    """What runs a network, how exactly, and where.

    Attributes:
        engine: "torch", "openvino", or "auto": the fastest that can run the network on the device.
        precision: "fp32", or "bf16": half to three quarters of the time where the processor
            computes in it, and masks that differ a little.
        device: As in `RunConfig`.

    Raises:
        ConfigError: An engine or precision that nobody knows.
    """

    engine: str = "auto"
    precision: str = "fp32"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (("engine", ENGINES), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f'{name} "{value}", expected one of {", ".join(known)}')
