import math
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch

from devices import DEVICES, as_for_large_trainings
from hemaseg.config import ModelConfig, Recipe, RunConfig, read_config
from hemaseg.errors import ConfigError, TrainingError
from hemaseg.slices.dataset import SliceName, SliceSet
from hemaseg.training import epochs, loop, memory
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    RunRecord,
    Start,
    load_model,
    load_start,
    read_record,
)
from hemaseg.training.losses import loss
from hemaseg.training.progress import Epoch, Progress
from hemaseg.training.validation import validate
from lively import Brightness
from signals import deliver

ORIGIN = loop.DataOrigin(cohort_sha256="c", split_sha256="s", fold=1, modality="CT")


def discs(num_subjects: int, seed: int, num_slices: int = 4) -> SliceSet:
    """Bright discs on noise; the last slice of each subject has none."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    images, masks, names = [], [], []
    for subject in range(num_subjects):
        for index in range(num_slices):
            y, x = (float(v) for v in 8 + 16 * torch.rand(2, generator=random))
            mask = (rows - y) ** 2 + (columns - x) ** 2 < 30
            if index == num_slices - 1:
                mask = torch.zeros_like(mask)
            images.append((0.25 * torch.rand(32, 32, generator=random) + 0.5 * mask)[None])
            masks.append(mask[None])
            names.append(SliceName(f"s{subject}", f"s{subject}_{index}.png", 0))
    return SliceSet(torch.stack(images).half(), torch.stack(masks), tuple(names))


def config(
    seed: int = 0, model: str = "unet", device: str = "cpu", **sections: dict[str, object]
) -> RunConfig:
    content: dict[str, object] = {
        "description": "test",
        "slices": {"image_size": 32},
        "training": {"num_epochs": 3, "batch_size": 4},
    }
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values}  # type: ignore[dict-item]
    return RunConfig(
        model=ModelConfig(name=model, options={"base_width": 8}),
        seed=seed,
        device=device,
        recipe=Recipe.model_validate(content),
    )


def run(
    folder: Path, settings: RunConfig | None = None, *, start: Start | None = None
) -> RunRecord:
    return loop.train(
        settings or config(), discs(6, 1), discs(3, 2), folder, origin=ORIGIN, start=start
    )


def test_run_folder_is_complete_and_says_what_was_done(tmp_path: Path) -> None:
    record = run(tmp_path)
    assert record == read_record(tmp_path / RUN, RunRecord)
    assert record.status == "complete"
    assert record.num_epochs_done == 3
    assert (record.num_training_subjects, record.num_training_slices) == (6, 24)
    # Without negative slices in training, validation is on slices with a lesion too.
    assert (record.num_validation_subjects, record.num_validation_slices) == (3, 9)
    assert (record.fold, record.modality) == (1, "CT")
    assert load_model(tmp_path)[1].modality == "CT"
    assert read_config(tmp_path / "config.toml", RunConfig) == config()
    table = pd.read_csv(tmp_path / "training.csv")
    assert list(table.columns) == list(Epoch.__dataclass_fields__)
    assert list(table["epoch"]) == [1, 2, 3]
    assert table["cumulative_s"].iloc[-1] == pytest.approx(table["epoch_s"].sum())
    assert record.best_epoch == table["validation_dice"].argmax() + 1


@pytest.mark.parametrize("model", ["unet", "dr_unet", "dense_unet"])
@pytest.mark.parametrize("device", DEVICES)
def test_same_seed_gives_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, device: str
) -> None:
    as_for_large_trainings(monkeypatch)
    augmented = config(
        model=model,
        device=device,
        augmentation={"rotation_deg": 20, "noise_sd": 0.1},
        slices={"negative_share": 0.25},
    )
    for name in ("a", "b"):
        run(tmp_path / name, augmented)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    a, b = (pd.read_csv(tmp_path / name / "training.csv") for name in ("a", "b"))
    kept = ["epoch", "training_loss", "validation_loss", "validation_dice", "learning_rate"]
    pd.testing.assert_frame_equal(a[kept], b[kept], check_exact=True)


@pytest.mark.parametrize("model", ["unet", "dr_unet", "dense_unet"])
def test_recomputed_activations_give_the_same_bits(tmp_path: Path, model: str) -> None:
    for name, is_on in (("kept", False), ("recomputed", True)):
        run(tmp_path / name, config(model=model, training={"recomputes_activations": is_on}))
    kept, recomputed = ((tmp_path / n / WEIGHTS).read_bytes() for n in ("kept", "recomputed"))
    assert kept == recomputed


def test_peak_memory_is_predicted_in_record_and_progress(tmp_path: Path) -> None:
    steps: list[Progress] = []
    record = loop.train(
        config(), discs(6, 1), discs(3, 2), tmp_path, origin=ORIGIN, progress=steps.append
    )
    assert record.predicted_peak_mib is not None
    assert record.predicted_peak_mib == steps[0].predicted_peak_mib
    words = f"training, epoch 1/3, predicted peak {record.predicted_peak_mib:,.0f} MiB"
    assert steps[0].describe() == words
    assert "predicted" not in steps[-1].describe()
    if record.peak_memory_mib is not None:  # of a process that has done much else
        assert 0.5 < record.predicted_peak_mib / record.peak_memory_mib < 1.5


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory_mib", lambda device: 1.0)
    with pytest.raises(TrainingError, match=r"4 slices of image_size 32 at once .* the 1 MiB that"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_seed_gives_other_weights(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", config(seed=1))
    assert (tmp_path / "a" / WEIGHTS).read_bytes() != (tmp_path / "b" / WEIGHTS).read_bytes()


def test_a_start_is_where_training_begins(tmp_path: Path) -> None:
    """With a learning rate of almost nothing the weights stay those of the start."""
    first = run(tmp_path / "first", config(optimiser={"learning_rate": 0.005}))
    assert first.start_weights_sha256 is None
    still = config(seed=5, optimiser={"learning_rate": 1e-12}, training={"num_epochs": 1})
    start = load_start(tmp_path / "first", tmp_path / "next")
    record = run(tmp_path / "next", still, start=start)
    begun, ended = (load_model(tmp_path / name) for name in ("first", "next"))
    assert read_record(tmp_path / "next" / RUN, RunRecord) == record
    assert record.start_weights_sha256 == begun[1].weights_sha256
    for one, other in zip(begun[0].parameters(), ended[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    run(tmp_path / "random", still)
    one, other = (next(load_model(tmp_path / f)[0].parameters()) for f in ("first", "random"))
    assert not torch.allclose(one, other)


def test_a_start_repeats_to_the_bit_at_another_image_size(tmp_path: Path) -> None:
    run(tmp_path / "first")
    settings = config(slices={"image_size": 64})
    for name in ("a", "b"):
        run(
            tmp_path / name,
            settings,
            start=load_start(tmp_path / "first", tmp_path / name),
        )
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    assert load_model(tmp_path / "a")[1].image_size == 64
    start = load_start(tmp_path / "first", tmp_path / "c")
    with pytest.raises(ConfigError, match="weights of unet with base_width = 8, expected dr_unet"):
        run(tmp_path / "c", config(model="dr_unet"), start=start)
    assert not (tmp_path / "c").exists()


def test_it_learns(tmp_path: Path) -> None:
    record = run(
        tmp_path,
        config(training={"num_epochs": 15}, optimiser={"learning_rate": 0.005}),
    )
    assert record.best_validation_dice is not None
    assert record.best_validation_dice > 0.85


def test_stored_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    settings = config(training={"num_epochs": 6}, optimiser={"learning_rate": 0.02})
    record = run(tmp_path, settings)
    network, _ = load_model(tmp_path)
    validation = discs(3, 2)
    lesions = validation.select(torch.nonzero(validation.has_lesion).flatten())
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    _, dice = validate(network, lesions, settings, autocast)
    assert dice == pytest.approx(record.best_validation_dice, abs=1e-6)


def test_validation_dice_is_by_subject_not_by_slice(tmp_path: Path) -> None:
    """A network that marks everything: each subject's Dice is 2 m / (m + all), pooled."""

    class Everything(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * 0 + 9 + self.weight

    slices = discs(3, 2)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    _, dice = validate(Everything(), slices, config(), autocast)
    sizes = slices.masks.view(3, -1).sum(dim=1)
    assert dice == pytest.approx(float((2 * sizes / (sizes + 4 * 32 * 32)).mean()))


def test_plateau_cuts_by_the_stated_factor(tmp_path: Path) -> None:
    """With a rate so small that nothing improves much, each patience period ends in a cut."""
    settings = config(
        training={"num_epochs": 5},
        optimiser={"learning_rate": 1e-6},
        schedule={"patience": 0},
    )
    run(tmp_path, settings)
    rates = pd.read_csv(tmp_path / "training.csv")["learning_rate"]
    losses = pd.read_csv(tmp_path / "training.csv")["validation_loss"]
    expected, best = [1e-6], losses[0]
    for value in losses[1:]:
        has_improved = value < best * (1 - 1e-4)
        best = min(best, value) if has_improved else best
        expected.append(expected[-1] * (1 if has_improved else math.sqrt(0.1)))
    assert min(expected) < 1e-6
    # The rate of an epoch is decided by the epochs before it.
    assert list(rates[1:]) == pytest.approx(expected[:1] + expected[1:-1])


def test_cosine_ends_near_zero_after_a_warm_up(tmp_path: Path) -> None:
    settings = config(training={"num_epochs": 8}, schedule={"name": "cosine", "warmup_share": 0.25})
    run(tmp_path, settings)
    rates = pd.read_csv(tmp_path / "training.csv")["learning_rate"]
    assert rates[0] < rates[2]
    assert rates[2] == pytest.approx(0.001, rel=0.05)
    assert rates[7] < 0.0001


def test_negatives_enter_training_and_validation_when_asked(tmp_path: Path) -> None:
    record = run(tmp_path, config(slices={"negative_share": 0.25}))
    assert record.num_validation_slices == 12


def test_no_lesion_is_refused(tmp_path: Path) -> None:
    slices = discs(2, 1)
    empty = SliceSet(slices.images, torch.zeros_like(slices.masks), slices.names)
    with pytest.raises(TrainingError, match="training set has 8 marked slices and no lesion"):
        loop.train(config(), empty, slices, tmp_path, origin=ORIGIN)
    with pytest.raises(TrainingError, match="validation set has 0 marked slices and no lesion"):
        loop.train(config(), slices, empty, tmp_path, origin=ORIGIN)


@pytest.mark.parametrize("device", DEVICES)
def test_loss_that_is_not_finite_stops_with_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    as_for_large_trainings(monkeypatch)
    slices = discs(6, 1)
    images = slices.images.clone()
    images[5] = math.nan
    broken = SliceSet(images, slices.masks, slices.names)
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, step \d.*s1_1\.png"):
        loop.train(config(device=device), broken, discs(2, 2), tmp_path, origin=ORIGIN)
    record = read_record(tmp_path / RUN, RunRecord)
    assert record.status == "failed"
    assert "loss is nan" in record.message


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_that_are_not_finite_stop_with_their_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """A loss can be finite where its gradient is not; on a CPU it does not touch the weights."""
    as_for_large_trainings(monkeypatch)

    class Root(torch.autograd.Function):
        """Of a loss near 1, with the gradient that a square root has at 0."""

        @staticmethod
        def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * math.inf

    calls: list[int] = []

    def third(*args: object) -> torch.Tensor:
        calls.append(1)
        value = loss(*args)  # type: ignore[arg-type]
        if len(calls) < 3:
            return value
        broken: torch.Tensor = Root.apply(value)  # type: ignore[no-untyped-call]
        return broken

    monkeypatch.setattr(epochs, "loss", third)
    match = r"norm of the gradients is (nan|inf) in epoch 1, step 3, .* batch: s\d_\d\.png"
    with pytest.raises(TrainingError, match=match):
        run(tmp_path, config(device=device))


def test_micro_batches_give_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """Without batch norm's statistics, which differ: gradients of one step, in closed form.

    Cross-entropy is a mean over pixels, so of a linear network the gradient over the batch is the
    mean of the parts'; 3 slices in parts of 2 are weighted 2 : 1.
    """
    slices = discs(1, 1)
    found = []
    norm = torch.nn.utils.get_total_norm

    def seen(gradients: list[torch.Tensor]) -> torch.Tensor:
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return norm(gradients)

    for size in (None, 2):
        settings = config(
            loss={"name": "dice_cross_entropy", "smoothing": 1e9},  # Dice of no influence
            training={"batch_size": 3, "num_epochs": 1, "micro_batch_size": size},
        )
        assert settings.recipe.training.slices_per_pass == (size or 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(epochs, "build_model", lambda *_: Linear())
            patch.setattr(loop, "add_doubt", lambda *_, **__: None)
            patch.setattr(loop, "require_memory", lambda *_, **__: 1.0)
            patch.setattr(loop, "require_size", lambda *_: None)
            patch.setattr(torch.nn.utils, "get_total_norm", seen)
            loop.train(settings, slices, discs(2, 2), tmp_path / str(size), origin=ORIGIN)
    whole, in_parts = found
    torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-7)


class Linear(torch.nn.Conv2d):
    """A network of one pixel's weight and a bias."""

    def __init__(self) -> None:
        super().__init__(1, 1, 1)


def test_micro_batches_train(tmp_path: Path) -> None:
    record = run(
        tmp_path,
        config(
            training={"num_epochs": 15, "micro_batch_size": 2}, optimiser={"learning_rate": 0.005}
        ),
    )
    assert record.best_validation_dice is not None
    assert record.best_validation_dice > 0.8


def golden_config() -> RunConfig:
    return config(
        training={"num_epochs": 8},
        optimiser={"learning_rate": 0.01},
        augmentation={"rotation_deg": 20, "flip_probability": 0.5, "gamma": 0.3},
        loss={"name": "dice_cross_entropy"},
        slices={"negative_share": 0.25},
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_no_memory_becomes_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(epochs, "augment", no_memory)
    with pytest.raises(
        TrainingError,
        match=r"out of memory on cpu with 4 slices .*recomputes_activations = true .*"
        r"micro_batch_size = 2",
    ):
        run(tmp_path)
    assert read_record(tmp_path / RUN, RunRecord).status == "failed"


def test_other_errors_are_not_taken_for_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(epochs, "augment", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(tmp_path)
    assert read_record(tmp_path / RUN, RunRecord).status == "failed"


def test_slices_that_the_network_cannot_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_size is 72, expected a multiple of 32 for model"):
        run(tmp_path, config(slices={"image_size": 72}))
    assert not any(tmp_path.iterdir())


def test_validation_loss_that_is_not_finite_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "validate", lambda *_, **__: (math.nan, math.nan))
    with pytest.raises(TrainingError, match="validation loss is nan after epoch 1"):
        run(tmp_path)
    assert not (tmp_path / MODEL).exists()


def test_of_equal_epochs_the_first_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "validate", lambda *_, **__: (0.5, 0.5))
    first: list[bytes] = []

    def read_after_first_epoch(step: Progress) -> None:
        if step.epoch == 2 and not first:
            first.append((tmp_path / WEIGHTS).read_bytes())

    record = loop.train(
        *(config(), discs(6, 1), discs(3, 2), tmp_path),
        origin=ORIGIN,
        progress=read_after_first_epoch,
    )
    assert record.best_epoch == 1
    assert (tmp_path / WEIGHTS).read_bytes() == first[0]


def test_a_subject_with_neither_lesion_nor_prediction_is_left_out_of_validation() -> None:
    slices = discs(3, 2)
    masks = slices.masks.clone()
    masks[:4] = False
    network = Brightness()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    exact = SliceSet(masks.half(), masks, slices.names)
    assert validate(network, exact, config(), autocast)[1] == 1.0
    nothing = torch.zeros_like(masks)
    empty = SliceSet(nothing.half(), nothing, slices.names)
    assert math.isnan(validate(network, empty, config(), autocast)[1])


def test_interruption_leaves_a_usable_run_that_is_not_calibrated(tmp_path: Path) -> None:
    def stop_in_second_epoch(step: Progress) -> None:
        if step.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(
            config(),
            discs(6, 1),
            discs(3, 2),
            tmp_path,
            origin=ORIGIN,
            progress=stop_in_second_epoch,
        )
    record = read_record(tmp_path / RUN, RunRecord)
    assert record.status == "interrupted"
    assert record.best_epoch == 1
    assert record.calibration is None
    assert load_model(tmp_path)[1].temperature == 1.0
    assert len(pd.read_csv(tmp_path / "training.csv")) == 1


def test_interruption_before_the_first_epoch_says_so(tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    run(tmp_path)  # An earlier run in the same folder, whose weights must not remain.
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(), discs(2, 1), discs(2, 2), tmp_path, origin=ORIGIN, progress=stop)
    assert "no weights" in read_record(tmp_path / RUN, RunRecord).message
    assert not (tmp_path / MODEL).exists()


def test_mixed_precision_trains(tmp_path: Path) -> None:
    record = run(tmp_path, config(training={"precision": "bf16", "num_epochs": 2}))
    assert record.precision == "bf16"
    assert record.status == "complete"


def test_golden_loss_curve(tmp_path: Path) -> None:
    """A change that should not move numbers must leave this curve; see CONTRIBUTING.md.

    Other processors and numbers of threads sum in another order; that moves the training loss by
    less than 1 %, but the validation of so short a run by far more.
    """
    golden = pd.read_csv(Path(__file__).parent / "golden" / "training_loss.csv")
    record = run(tmp_path, golden_config())
    found = pd.read_csv(tmp_path / "training.csv")
    pd.testing.assert_frame_equal(found[list(golden.columns)], golden, rtol=2e-2)
    assert record.best_validation_dice is not None
    assert record.best_validation_dice > 0.8


def test_a_tracker_is_told_of_each_epoch_and_of_the_end(tmp_path: Path) -> None:
    """Also of a run that goes on: of the epochs that are still to be done."""
    told: list[tuple[object, ...]] = []

    class Told:
        def begin(self, parameters: Mapping[str, object], first_epoch: int = 1) -> None:
            told.append((parameters["recipe.training.num_epochs"], first_epoch))

        def epoch(self, number: int, values: Mapping[str, float]) -> None:
            told.append((number, *values))

        def end(self, status: str) -> None:
            told.append((status,))

    def stop_in_second_epoch(step: Progress) -> None:
        if step.epoch == 2:
            deliver(signal.SIGTERM)

    for progress in (stop_in_second_epoch, None):
        with suppress(KeyboardInterrupt):
            loop.train(
                *(config(), discs(6, 1), discs(3, 2), tmp_path),
                origin=ORIGIN,
                tracker=Told(),
                resumes=True,
                progress=progress,
            )
    columns = tuple(Epoch.__dataclass_fields__)[1:]
    assert told == [
        *((3, 1), (1, *columns), ("interrupted",)),
        *((3, 2), (2, *columns), (3, *columns), ("complete",)),
    ]
