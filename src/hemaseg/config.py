"""A recipe, a run and a study as checked TOML files.

A *recipe* says how any network is trained; it never names one. A *run* is a network, a recipe, a
fold and a seed. A *study* is several arms (network + recipe) on the same folds and seeds. The
difference between two experiments is the difference between two files, so there are no override
flags.

Unknown keys are refused and the nearest known key is named. Every default below is written out in
the resolved file that each run folder keeps.
"""

import difflib
import tomllib
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hemaseg.errors import ConfigError
from hemaseg.files import write_text

Positive = Annotated[float, Field(gt=0)]
LowHigh = Annotated[tuple[float, float], Field(strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
ImageSize = Annotated[int, Field(ge=16, le=4096)]
Option = bool | int | float | str
"""Value of a network's keyword argument."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
"""A name that is also a folder name on every system."""


class Section(BaseModel):
    """A table of a TOML file: frozen, no unknown keys, defaults checked like values.

    A value must be of the type that is asked for: neither `"1_0"` nor `true` is a number. Lists may
    stand for tuples, which TOML does not have.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, strict=True
    )


class SlicesConfig(Section):
    """`[slices]`: what the network sees."""

    image_size: ImageSize = 256
    """Rows and columns; slices are fitted to this square (aspect kept, padded). Paper: 256."""
    negative_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each epoch's slices drawn from those without a lesion. Paper: 0 (lesion slices
    only). An epoch always has as many slices as the training set has lesion slices, so that the
    cost of an epoch does not depend on this share."""


class IntensityConfig(Section):
    """`[intensity]`: pixel values to [0, 1]."""

    method: Literal["auto", "as_is", "window", "robust"] = "auto"
    """`as_is`: 8-bit values over 255. `window`: CT values clipped to `window_hu`. `robust`: clipped
    to two percentiles of the scan's non-zero voxels. `auto`: 8-bit as is, other CT by window, other
    MRI robust."""
    window_hu: LowHigh = (30.0, 100.0)
    """Lower and upper end of the CT window in HU (level 65, width 70)."""
    percentiles: LowHigh = (0.5, 99.5)
    """Of the non-zero voxels of the scan, for `robust`."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name, (low, high) in (("window_hu", self.window_hu), ("percentiles", self.percentiles)):
            if not low < high:
                raise ValueError(f"{name} is {[low, high]}, expected the lower end first")
        if self.percentiles[0] < 0 or self.percentiles[1] > 100:
            raise ValueError(f"percentiles are {list(self.percentiles)}, expected within 0..100")
        return self


class AugmentationConfig(Section):
    """`[augmentation]`: random changes of training slices; all zero means none (the paper)."""

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation drawn from plus or minus this angle."""
    scaling: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Zoom drawn from 1 minus to 1 plus this."""
    translation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Shift drawn from plus or minus this share of the image size, in both directions."""
    flip_probability: Share = 0.0
    """Chance of a left-right flip."""
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Exponent drawn from 1 - gamma to 1 / (1 - gamma), evenly in its logarithm."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Contrast factor about the image's mean drawn from 1 minus to 1 plus this."""
    noise_sd: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Gaussian noise with a standard deviation drawn from 0 to this (image values lie in [0,
    1])."""


class LossConfig(Section):
    """`[loss]`: what is optimised."""

    name: Literal["dice", "dice_cross_entropy"] = "dice"
    """`dice`: 1 - soft Dice (the paper). `dice_cross_entropy`: that plus binary cross-entropy."""
    smoothing: Annotated[float, Field(ge=0)] = 1.0
    """Pixels added to numerator and denominator of the soft Dice, whose terms are sums over the
    batch."""


class OptimiserConfig(Section):
    """`[optimiser]`."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class ScheduleConfig(Section):
    """`[schedule]`: the learning rate over epochs."""

    name: Literal["plateau", "cosine"] = "plateau"
    """`plateau`: cut when the validation loss has not improved (the paper). `cosine`: half a cosine
    from the learning rate to zero over all steps, after a linear warm-up."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.31622776601683794
    """Of each cut (plateau). Paper: "approximately 0.32", read as the square root of 0.1."""
    patience: Annotated[int, Field(ge=0)] = 3
    """Epochs without improvement before a cut (plateau). The paper states none."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps over which the rate rises linearly from zero (cosine)."""


class TrainingConfig(Section):
    """`[training]`: the loop."""

    batch_size: Annotated[int, Field(ge=1)] = 8
    num_epochs: Annotated[int, Field(ge=1)] = 30
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: mixed precision. `auto`: bf16 on a CUDA device that computes in it, fp32 elsewhere
    (on CUDA with TF32 in convolutions, as is PyTorch's default). Studies predict in fp32."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Slices that go through the network at once, if not the whole batch: less memory. Gradients of
    a batch's parts are added up, weighted by their slices, before the weights change. Not the same
    numbers as the whole batch: the Dice loss is the mean of the parts' losses, and batch norm sees
    a part. Known as gradient accumulation; `recomputes_activations` saves memory and keeps the
    numbers, so try that first."""
    is_deterministic: bool = True
    """Whether PyTorch must use algorithms that repeat to the bit for equal seeds."""
    recomputes_activations: bool = False
    """Whether activations are computed again in the backward pass in place of being kept for it:
    less memory for more time, and no number changes. Known as activation or gradient
    checkpointing; `docs/reproduction.md` says what it saves and costs."""
    records_passes: bool = True
    """Whether a GPU records the passes of a batch and replays them (CUDA graphs), where that can
    be: less time, the same numbers, more memory. `run.json` says whether it did. False is for
    where recording fails."""

    @property
    def slices_per_pass(self) -> int:
        """Slices that go through the network at once, at most."""
        return min(self.batch_size, self.micro_batch_size or self.batch_size)


class Recipe(Section):
    """How any network is trained."""

    description: str
    slices: SlicesConfig = SlicesConfig()
    intensity: IntensityConfig = IntensityConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()


class ModelConfig(Section):
    """`[model]`: a network of `hemaseg models` and its options."""

    name: str
    options: dict[str, Option] = {}


class RunConfig(Section):
    """Everything that one training depends on, besides the pixels; stored as `config.toml`."""

    model: ModelConfig
    seed: Seed = 0
    device: str = "auto"
    """`auto` (CUDA, then MPS, then CPU), or a PyTorch device such as `cpu` or `cuda:1`."""
    recipe: Recipe


class SplitConfig(Section):
    """`[split]` of a study; used when the study makes its own split."""

    method: Literal["holdout", "folds", "site", "slices"] = "folds"
    seed: Seed = 0
    num_folds: Annotated[int, Field(ge=2)] = 5
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    site: str = ""
    """The site held out for test (method `site`)."""


class ArmConfig(Section):
    """`[[arms]]`: one network with one recipe."""

    name: Name
    model: str
    recipe: str
    """Path of a recipe, relative to the study file."""
    options: dict[str, Option] = {}


class ComparisonConfig(Section):
    """`[comparison]`: decided before training, so that the verdict cannot follow the result."""

    metric: Literal[
        "dice", "iou", "surface_dice", "hd95_mm", "assd_mm", "absolute_volume_error_ml"
    ] = "dice"
    margin: Positive | None = None
    """Differences of means smaller than this count as equivalent; without it nothing can."""
    pairs: list[Annotated[tuple[str, str], Field(strict=False)]] = []
    """The pairs of arms to test, each pair once; all pairs if empty. Fewer tests, less
    correction."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    num_bootstrap: Annotated[int, Field(ge=99)] = 9999
    surface_tolerance_mm: Positive = 2.0

    @model_validator(mode="after")
    def _check_margin(self) -> Self:
        has_unit = self.metric.endswith(("_mm", "_ml"))
        if self.margin is not None and self.margin >= 1 and not has_unit:
            raise ValueError(
                f"margin is {self.margin:g}, expected less than 1, since the metric lies between 0 "
                "and 1; 0.02 for 2 %"
            )
        return self


class StudyConfig(Section):
    """Several arms on the same folds and seeds."""

    name: Name
    description: str
    cohort: str
    """Path of `cohort.csv`, relative to the study file."""
    data_notice: str = ""
    """Source, licence and caveats of the data; printed in the report."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    device: str = "auto"
    num_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of PyTorch on a CPU; 0 leaves the choice to it, or gives each run its share of the
    cores where several run at a time. Small networks are quicker with 1, above all on a busy
    machine, where threads wait for each other. Sums depend on the number of threads in their last
    bits: only a number other than 0 gives the same weights however runs are started."""
    split: SplitConfig = SplitConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    arms: Annotated[list[ArmConfig], Field(min_length=2)]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [arm.name for arm in self.arms]
        for values, what in ((names, "arms"), (self.seeds, "seeds")):
            repeated = sorted({str(v) for v in values if values.count(v) > 1})  # type: ignore[arg-type]
            if repeated:
                raise ValueError(f"{what} {', '.join(repeated)} stand twice, expected each once")
        unknown = sorted({arm for pair in self.comparison.pairs for arm in pair} - set(names))
        if unknown:
            raise ValueError(
                f"comparison.pairs name {', '.join(unknown)}, expected arms: {', '.join(names)}"
            )
        pairs = self.comparison.pairs
        if any(a == b for a, b in pairs) or len({frozenset(pair) for pair in pairs}) < len(pairs):
            raise ValueError(
                f"comparison.pairs are {pairs}, expected two different arms in each, and each "
                "pair once; leave them out for all pairs"
            )
        return self


SectionT = TypeVar("SectionT", bound=Section)


def read_config(path: Path, kind: type[SectionT]) -> SectionT:
    """Read and check a TOML file.

    Args:
        path: The file.
        kind: `Recipe`, `RunConfig` or `StudyConfig`.

    Raises:
        ConfigError: If it cannot be read, is not TOML, or breaks a rule; names every key at fault.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Give the path of a TOML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from error
    except ValueError as error:  # Of which that of tomllib is one.
        raise ConfigError(f"{path}: not valid TOML: {error}.") from error
    except RecursionError:
        raise ConfigError(
            f"{path}: not valid TOML: nested beyond any use, expected a few levels. Correct it."
        ) from None
    return parse_config(content, kind, source=str(path))


def parse_config(content: dict[str, Any], kind: type[SectionT], *, source: str) -> SectionT:
    """Check parsed TOML; `source` names it in errors.

    Raises:
        ConfigError: If it breaks a rule; names every key at fault.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [_explain(item, kind) for item in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(lines)) from error


def write_config(config: Section, path: Path) -> None:
    """Write the resolved configuration as TOML; `None` values are left out."""
    write_text(path, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))


def differences(before: Section, now: Section, *, apart_from: Set[str] = frozenset()) -> list[str]:
    """Settings that differ, each as `key VALUE, asked for now VALUE`.

    Args:
        before: As stored.
        now: Of the same kind.
        apart_from: Full names of settings that may differ, such as `recipe.description`.
    """
    old, new = flat(before.model_dump()), flat(now.model_dump())
    return [
        f"{key} {old.get(key, 'nothing')}, asked for now {new.get(key, 'nothing')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in apart_from
    ]


def flat(value: Any, key: str = "") -> dict[str, object]:
    """Nested settings by their full names.

    >>> flat({"seed": 0, "arms": [{"name": "a"}]})
    {'seed': 0, 'arms.0.name': 'a'}
    """
    if not isinstance(value, dict | list | tuple):
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        name: inner
        for part, content in items
        for name, inner in flat(content, f"{key}.{part}" if key else str(part)).items()
    }


def _explain(item: Any, kind: type[Section]) -> str:
    """One sentence for one finding of pydantic."""
    key = ".".join(str(part) for part in item["loc"]) or "file"
    if item["type"] == "extra_forbidden":
        known = _known_keys(kind, item["loc"][:-1])
        nearest = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f'did you mean "{nearest[0]}"?' if nearest else f"known keys: {', '.join(known)}"
        return f'key "{key}" is unknown, {hint}'
    if item["type"] == "missing":
        return f'key "{key}" is missing'
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if isinstance(item["input"], dict):
        return f"{key}: {message}" if item["loc"] else message
    return f"{key} is {item['input']!r}: {message}"


def _known_keys(kind: type[Section], location: tuple[str | int, ...]) -> list[str]:
    """Keys of the (nested) section at a location such as `("arms", 0)`."""
    section = kind
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            annotation: Any = section.model_fields[part].annotation
            inner = getattr(annotation, "__args__", (annotation,))[0]
            section = inner if isinstance(inner, type) and issubclass(inner, Section) else section
    return list(section.model_fields)
