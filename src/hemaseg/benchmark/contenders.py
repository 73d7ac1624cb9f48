"""Ways to run a network on a CPU, each set up as a careful user would from its documentation.

Shape legend: K slices of a stack, H rows, W columns (H = W).
"""

import importlib.util
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from hemaseg.engines.engine import Engine, OpenVinoEngine, TorchEngine
from hemaseg.errors import EngineError

Run = Callable[[Tensor], Tensor]
"""A stack `(K, 1, H, W)` to logits of the same shape."""

_BATCH_SIZE = 8


@dataclass(frozen=True)
class Contender:
    """A way to run a network.

    Attributes:
        name: As in tables.
        precision: What it computes in.
        prepare: Trained network and image size to what runs it.
        needs: Packages to install.
        brings: Image size to a network of its own with random weights, which it runs instead of
            the trained one; None if it runs that.
    """

    name: str
    precision: str
    prepare: Callable[[nn.Module, int], Run]
    needs: tuple[str, ...] = ()
    brings: Callable[[int], nn.Module] | None = None

    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


def _eager(network: nn.Module, image_size: int) -> Run:
    """Batches of 8 as in training, PyTorch's own settings."""
    return _batched(network)


def _eager_by_slice(network: nn.Module, image_size: int) -> Run:
    """One slice per call in channels-last, all threads on it."""
    return _batched(network.to(memory_format=torch.channels_last), 1)  # type: ignore[call-overload]


def _compiled(network: nn.Module, image_size: int) -> Run:
    """torch.compile, one slice per call in channels-last."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _batched(torch.compile(network), 1)


def _batched(network: Callable[[Tensor], Tensor], batch_size: int = _BATCH_SIZE) -> Run:
    layout = torch.channels_last if batch_size == 1 else torch.contiguous_format

    @torch.inference_mode()
    def run(stack: Tensor) -> Tensor:
        batches = stack.split(batch_size)
        return torch.cat([network(batch.contiguous(memory_format=layout)) for batch in batches])

    return run


def _ours(make: Callable[[nn.Module, int], Engine]) -> Callable[[nn.Module, int], Run]:
    def prepare(network: nn.Module, image_size: int) -> Run:
        engine = make(network, image_size)

        def run(stack: Tensor) -> Tensor:
            return _in_threads(engine, stack.split(engine.batch_size), engine.num_workers)

        return run

    return prepare


def _in_threads(call: Run, batches: Iterable[Tensor], num_workers: int) -> Tensor:
    with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return torch.cat(list(pool.map(call, batches)))


def _onnxruntime(network: nn.Module, image_size: int, *, by_slice: bool) -> Run:
    import onnxruntime

    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, image_size, image_size),),
            file,
            input_names=["image"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        options = onnxruntime.SessionOptions()
        num_threads = torch.get_num_threads()
        options.intra_op_num_threads = 1 if by_slice else num_threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def call(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])

    return lambda stack: _in_threads(call, stack.split(1), num_threads if by_slice else 1)


def _openvino(network: nn.Module, image_size: int, *, hint: str, precision: str) -> Run:
    """Its own converter, its own choice of threads and streams, its own queue."""
    import openvino

    shape = [1, 1, image_size, image_size]
    converted = openvino.convert_model(network, example_input=torch.zeros(shape), input=shape)
    compiled = openvino.Core().compile_model(
        converted,
        "CPU",
        {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )

    def run(stack: Tensor) -> Tensor:
        found: dict[int, Tensor] = {}

        def keep(request: Any, number: int) -> None:
            found[number] = torch.from_numpy(request.get_output_tensor(0).data.copy())

        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(keep)
        for number, one in enumerate(stack.split(1)):
            queue.start_async([one.numpy()], number)
        queue.wait_all()
        return torch.cat([found[number] for number in range(len(stack))])

    return run


def _monai(network: nn.Module, image_size: int) -> Run:
    """MONAI's sliding window over each slice, which is one window."""
    from monai.inferers import SlidingWindowInferer

    window = SlidingWindowInferer((image_size, image_size), sw_batch_size=_BATCH_SIZE)
    return _batched(lambda batch: window(batch, network))


def _nnunet_network(image_size: int) -> nn.Module:
    """Its default 2-D U-Net, as its planner makes it for slices of this size and square pixels."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    # As in its ExperimentPlanner: maps of 4x4 at least, any number of poolings, two convolutions.
    _, strides, kernel_sizes, _, _ = get_pool_and_conv_props(
        (1.0, 1.0), (image_size, image_size), 4, 999_999
    )
    num_stages = len(strides)
    network: nn.Module = PlainConvUNet(
        input_channels=1,
        n_stages=num_stages,
        features_per_stage=[min(512, 32 * 2**stage) for stage in range(num_stages)],
        conv_op=nn.Conv2d,
        kernel_sizes=kernel_sizes,
        strides=strides,
        n_conv_per_stage=2,
        num_classes=2,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    return network


def _nnunet(network: nn.Module, image_size: int) -> Run:
    """nnU-Net's predictor on a stack; its mirrored passes, four times the work, are off."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    two_d = {"patch_size": [image_size, image_size], "architecture": {}}
    plans = PlansManager({"configurations": {"2d": two_d}})
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration("2d"),
        parameters=None,
        dataset_json={"labels": {"background": 0, "hematoma": 1}},
        trainer_name="nnUNetTrainer",
        inference_allowed_mirroring_axes=None,
    )

    def run(stack: Tensor) -> Tensor:
        classes: Tensor = predictor.predict_sliding_window_return_logits(stack.transpose(0, 1))
        return (classes[1] - classes[0])[:, None]

    return run


def _smp_unet(image_size: int) -> nn.Module:
    """Its default U-Net: a ResNet-34 with a decoder."""
    from segmentation_models_pytorch import Unet

    network: nn.Module = Unet("resnet34", encoder_weights=None, in_channels=1)
    return network


ONNX = ("onnxruntime", "onnx", "onnxscript")
CONTENDERS = (
    Contender("PyTorch eager, batches of 8", "fp32", _eager),
    Contender("PyTorch eager, by slice, channels-last", "fp32", _eager_by_slice),
    Contender("torch.compile, by slice, channels-last", "fp32", _compiled),
    Contender("MONAI sliding window", "fp32", _monai, ("monai",)),
    Contender(
        "ONNX Runtime, all threads on a slice",
        "fp32",
        lambda network, size: _onnxruntime(network, size, by_slice=False),
        ONNX,
    ),
    Contender(
        "ONNX Runtime, a thread for each slice",
        "fp32",
        lambda network, size: _onnxruntime(network, size, by_slice=True),
        ONNX,
    ),
    Contender(
        "OpenVINO, latency",
        "fp32",
        lambda network, size: _openvino(network, size, hint="LATENCY", precision="f32"),
        ("openvino",),
    ),
    Contender(
        "OpenVINO, throughput",
        "fp32",
        lambda network, size: _openvino(network, size, hint="THROUGHPUT", precision="f32"),
        ("openvino",),
    ),
    Contender(
        "OpenVINO, throughput",
        "bf16",
        lambda network, size: _openvino(network, size, hint="THROUGHPUT", precision="bf16"),
        ("openvino",),
    ),
    Contender("hemaseg --engine torch", "fp32", _ours(lambda network, _: TorchEngine(network))),
    Contender("hemaseg --engine openvino", "fp32", _ours(OpenVinoEngine), ("openvino",)),
    Contender(
        "hemaseg --engine openvino",
        "bf16",
        _ours(lambda network, size: OpenVinoEngine(network, size, "bf16")),
        ("openvino",),
    ),
    Contender(
        "nnU-Net 2-D, its predictor without mirroring",
        "fp32",
        _nnunet,
        ("nnunetv2",),
        brings=_nnunet_network,
    ),
    Contender(
        "segmentation-models-pytorch Unet, batches of 8",
        "fp32",
        lambda network, _: _batched(network.predict),  # type: ignore[arg-type]
        ("segmentation_models_pytorch",),
        brings=_smp_unet,
    ),
)
"""The first one is what the others are compared with."""


def contender(name: str, precision: str) -> Contender:
    """The contender of a name and precision.

    Raises:
        EngineError: There is none.
    """
    for one in CONTENDERS:
        if (one.name, one.precision) == (name, precision):
            return one
    raise EngineError(f"no contender {name} in {precision}, expected one of the benchmark's.")
