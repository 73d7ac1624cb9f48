"""All contenders on all networks, in turns, so that a slow moment of the machine hits all alike."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

import numpy as np
import torch
from numpy.typing import NDArray

from hemaseg.benchmark.ceilings import Ceilings, measure_ceilings
from hemaseg.benchmark.contenders import CONTENDERS, Contender
from hemaseg.benchmark.inputs import Inputs, write_inputs
from hemaseg.benchmark.whole_process import StudyResult, measure_studies
from hemaseg.errors import EngineError
from hemaseg.metrics.overlap import dice

BESIDE = "unet"
"""The network beside which contenders run that bring a network of their own."""

ITS_OWN = "its own"


@dataclass(frozen=True)
class Result:
    """One contender on one network.

    Attributes:
        model: As the user named it; `ITS_OWN` if the contender brings its network.
        contender: Its name.
        precision: What it computes in.
        problem: Why there are no figures; empty if there are.
        load_s: From the weights on disk to what can run.
        first_s: The first slice.
        slice_ms: Median over the turns, milliseconds per slice.
        fastest_ms, slowest_ms: Of the turns.
        ratio: Of the first contender's median to this one's: how many times as fast.
        peak_mib: Of its process.
        roofline: Share of the machine's arithmetic rate in this precision.
        flipped: Share of mask pixels that differ from the first contender's; this and the next
            two are None for a network of its own, whose masks mean nothing.
        dice: Of both masks.
        volume_error: Difference of the number of mask pixels, as a share.
    """

    model: str
    contender: str
    precision: str
    problem: str = ""
    load_s: float | None = None
    first_s: float | None = None
    slice_ms: float | None = None
    fastest_ms: float | None = None
    slowest_ms: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    roofline: float | None = None
    flipped: float | None = None
    dice: float | None = None
    volume_error: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        ceilings: Of the machine.
        num_slices: Of each pass.
        num_turns: Passes of each contender.
        results: Network by network, contenders in their order.
        studies: Whole predictions by the first network.
    """

    ceilings: Ceilings
    num_slices: int
    num_turns: int
    results: tuple[Result, ...]
    studies: tuple[StudyResult, ...]

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=2)


def run_benchmark(
    models: Sequence[tuple[str, Path | None]],
    *,
    num_slices: int = 16,
    num_turns: int = 5,
    contenders: Sequence[Contender] = CONTENDERS,
    num_studies: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Benchmark:
    """Measure every contender on every network, and whole predictions by the first network.

    Slices are of a synthetic head, scaled as the network wants them. The mask of a network without
    training is the twentieth of pixels with the highest logits: as many lie near its border as of
    any mask of that size. Contenders that bring a network of their own run beside `BESIDE` only.

    Args:
        models: Names, and the run folders of them; None for a network of the catalogue with random
            weights, whose batch norms are fitted to the slices.
        num_slices: Of a pass.
        num_turns: Passes of each contender, and processes that predict a study.
        contenders: Who runs them; none for whole predictions alone.
        num_studies: Of a call with many; with 0 there are no whole predictions.
        progress: Called with what is done, and the numbers of passes done and to do.

    Raises:
        CheckpointError: A run folder is damaged.
        EngineError: The first contender failed, so there is nothing to compare with; or a whole
            prediction did.
    """
    ceilings = measure_ceilings()
    results: list[Result] = []
    with TemporaryDirectory() as name:
        studies: tuple[StudyResult, ...] = ()
        if num_studies:  # first: if they fail, nothing that took minutes is lost
            folder = Path(name) / "studies"
            folder.mkdir()
            model, run_folder = models[0]
            inputs = write_inputs(folder, model, run_folder, num_slices)
            studies = measure_studies(
                *(model, inputs.run_folder, inputs.model.modality, folder),
                num_studies=num_studies,
                num_turns=num_turns,
                progress=progress,
            )
        for number, (model, run_folder) in enumerate(models if contenders else ()):
            folder = Path(name) / str(number)
            folder.mkdir()
            inputs = write_inputs(folder, model, run_folder, num_slices)
            workers = [
                _Worker(one, inputs, folder / f"{index}.npy", ceilings.num_threads)
                for index, one in enumerate(contenders)
                if one.brings is None or model == BESIDE
            ]
            for turn in range(num_turns):
                for worker in workers:
                    worker.run()
                if progress is not None:
                    progress(model, number * num_turns + turn + 1, len(models) * num_turns)
            for worker in workers:
                worker.end()
            if workers[0].problem:
                raise EngineError(
                    f"{workers[0].contender.name}, which all others are compared with, failed on "
                    f"{model}: {workers[0].problem}. Mend that first."
                )
            results += _results(model, inputs, workers, ceilings)
    return Benchmark(ceilings, num_slices, num_turns, tuple(results), studies)


class _Worker:
    """The process of one contender, see `worker`."""

    def __init__(self, one: Contender, inputs: Inputs, logits: Path, num_threads: int) -> None:
        self.contender, self.logits = one, logits
        self.problem, self.start, self.end_state = "", dict[str, float](), dict[str, float]()
        self.passes_s: list[float] = []
        if missing := one.missing():
            self.problem = f"{', '.join(missing)} not installed"
            return
        self._log = logits.with_suffix(".log")
        arguments = (one.name, one.precision, inputs.run_folder, inputs.images_file, logits)
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hemaseg.benchmark.worker"]
                + [str(argument) for argument in (*arguments, num_threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        # One worker gets ready at a time, so that none measures another's start.
        self.start = self._answer()

    def run(self) -> None:
        """A pass over all images."""
        if not self.problem:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # its end is noticed when it does not answer
                self._process.stdin.write("run\n")
                self._process.stdin.flush()
            self.passes_s += [value for value in self._answer().values() if not self.problem]

    def end(self) -> None:
        """The logits are on disk after this."""
        if not self.problem:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self.end_state = self._answer()
            self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, float] = json.loads(line)
            return answer
        self._close()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        self.problem = shorten(lines[-1] if lines else "ended without a word", 100)
        return {}


def _results(
    model: str, inputs: Inputs, workers: Sequence[_Worker], ceilings: Ceilings
) -> list[Result]:
    """The figures of the contenders on one network; the first one is what masks are compared to."""
    first_mask: NDArray[np.bool_] | None = None
    first_s: float | None = None
    results = []
    for worker in workers:
        one = worker.contender
        network = ITS_OWN if one.brings else model
        if worker.problem:
            results.append(Result(network, one.name, one.precision, worker.problem))
            continue
        logits = torch.from_numpy(np.load(worker.logits, allow_pickle=False))
        probabilities = (logits / inputs.model.temperature).sigmoid()
        mask = (probabilities >= inputs.model.threshold).numpy()
        pass_s = statistics.median(worker.passes_s)
        if first_mask is None or first_s is None:
            first_mask, first_s = mask, pass_s
        per_slice_ms = 1000 / inputs.num_slices
        gflops = 2 * worker.end_state["multiply_adds"] * inputs.num_slices / pass_s / 1e9
        results.append(
            Result(
                network,
                one.name,
                one.precision,
                load_s=worker.start["load_s"],
                first_s=worker.start["first_s"],
                slice_ms=pass_s * per_slice_ms,
                fastest_ms=min(worker.passes_s) * per_slice_ms,
                slowest_ms=max(worker.passes_s) * per_slice_ms,
                ratio=first_s / pass_s,
                peak_mib=worker.end_state["peak_mib"],
                roofline=gflops / ceilings.gflops(one.precision),
                flipped=None if one.brings else float((mask != first_mask).mean()),
                dice=None if one.brings else dice(mask, first_mask),
                volume_error=None if one.brings else float(mask.sum() / first_mask.sum() - 1),
            )
        )
    return results
