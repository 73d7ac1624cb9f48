"""Cases on the workers of a Dask cluster, which see the same files as this process.

There are as many cases at a time as workers, whatever the number of their threads: networks use
threads of their own, and where a worker ends, the case that ended it is known. Dask gives that case
to another worker. What is sent are paths, options and records. See docs/clusters.md.
"""

import json
import logging
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, chdir
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from hemaseg.errors import ClusterError, HemasegError
from hemaseg.files import file_sha256
from hemaseg.intake.sources import Source
from hemaseg.prediction.cases import Progress
from hemaseg.prediction.places import Places
from hemaseg.prediction.predictor import CasePredictor, Job, Outcome
from hemaseg.scans.screening import Finding
from hemaseg.training.checkpoint import MODEL, ModelRecord, read_record
from hemaseg.versions import versions

if TYPE_CHECKING:
    from distributed import Future

CONNECT_S = 10.0
"""For the scheduler to answer."""
WAIT_S = 60.0
"""For a worker, where there is none."""
LOOK_S = 1.0
"""Between looks for workers that came or went."""

_ADDRESS = re.compile(r"([a-z]+://)?[^/\s]+:[0-9]+")
_GO_ON = "Cases that are done are kept; the same command does the others."
_ONE_AT_A_TIME = threading.Lock()
"""On a worker of several threads, which may get a second case when another worker has ended."""


@dataclass(frozen=True)
class _Order:
    """What a worker is to do, and to see for it.

    Attributes:
        job: The job; its paths can be relative.
        folder: What they are relative to.
        token: A folder in the file system of the results.
        model_sha256: Of the record of each model.
        software: Versions of what results depend on, by name.
    """

    job: Job
    folder: Path
    token: Path
    model_sha256: tuple[str, ...]
    software: dict[str, str]


@dataclass(frozen=True)
class _Errand:
    """A case, or none: then it is only found out whether the worker can do cases.

    Dask logs arguments of a function that raises; paths can identify patients.
    """

    order: _Order
    source: Source | None = field(default=None, repr=False)
    places: Places | None = field(default=None, repr=False)


@dataclass(frozen=True)
class _Reply:
    """How a case ended.

    Attributes:
        outcome: As `CasePredictor` gives it.
        host: Name of the machine.
        unseen: A file of the scan that is not there, for the worker; None if all are.
    """

    outcome: Outcome
    host: str
    unseen: Path | None


def _predict(errand: _Errand) -> _Reply | HemasegError | None:
    """Do a case, on a worker; what stops all cases is returned, since Dask logs what is raised."""
    order, source = errand.order, errand.source
    with _ONE_AT_A_TIME:
        try:
            _require_software(order.software, socket.gethostname())
            with _working_folder(order):
                _require_files(order)
                predictor = _predictor(order.job, order.folder, order.model_sha256)
                predictor.load()
                if source is None or errand.places is None:
                    return None
                outcome = predictor.outcome(source, errand.places)
                unseen = next((file for file in source.files if not file.exists()), None)
        except HemasegError as error:
            return error
    return _Reply(outcome, socket.gethostname(), unseen)


@lru_cache(maxsize=1)
def _predictor(job: Job, folder: Path, model_sha256: tuple[str, ...]) -> CasePredictor:
    """The networks of a job, which a worker keeps until it gets another model, folder or job."""
    return CasePredictor(job)


def _require_version(found: object, expected: str, worker: str) -> None:
    if found != expected:
        known = f"hemaseg {found}" if isinstance(found, str) else f"no hemaseg ({found})"
        raise ClusterError(
            f"the worker on {worker} has {known}, expected hemaseg {expected} as here. Install the "
            f"same on all machines and start the workers again. {_GO_ON}"
        )


def _software() -> dict[str, str]:
    """`versions`, of Python without that of its corrections."""
    found = versions()
    return found | {"python": found["python"].rpartition(".")[0]}


def _require_software(expected: dict[str, str], worker: str) -> None:
    """Results shall not depend on who made them."""
    found = _software()
    others = [name for name in expected if found[name] != expected[name]]
    if others:
        theirs, ours = (
            ", ".join(f"{name} {versions[name]}" for name in others)
            for versions in (found, expected)
        )
        raise ClusterError(
            f"the worker on {worker} has {theirs}, expected {ours} as here: results could differ. "
            f"Install the same on all machines and start the workers again. {_GO_ON}"
        )


def _working_folder(order: _Order) -> chdir[Path]:
    """Relative paths mean what they mean to the client, and messages have the same words."""
    if not order.folder.is_dir():
        raise _unseen(order.folder, socket.gethostname())
    return chdir(order.folder)


def _require_files(order: _Order) -> None:
    if not order.token.is_dir():
        raise _unseen(order.token.parent, socket.gethostname())
    for run_folder, sha256 in zip(order.job.run_folders, order.model_sha256, strict=True):
        model = run_folder / MODEL
        if not model.is_file():
            raise _unseen(run_folder, socket.gethostname())
        if file_sha256(model) != sha256:
            raise ClusterError(
                f"the worker on {socket.gethostname()} sees another {model} than this machine, "
                "expected the same. Name a model in a folder that all machines share."
            )


def _unseen(path: Path, host: str) -> ClusterError:
    return ClusterError(
        f"the worker on {host} does not see {path} as this machine does, expected a file system "
        f"that all machines share. Move to such a folder, and have scans, model and results there. "
        f"{_GO_ON}"
    )


class Cluster:
    """Does cases on the workers of a Dask cluster, as an `Executor`; a context manager.

    The cluster is the user's: it is found running and left running.

    Args:
        address: Of the scheduler, as `tcp://host:8786`, or the path of the file that it wrote.

    Raises:
        ClusterError: Dask is not installed, the address is none, or no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._workers: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        try:
            from distributed import Client
        except ImportError as error:
            raise ClusterError(
                f"Dask is not installed or damaged ({error}). Install it, here and on the workers, "
                'by pip install "hemaseg[cluster]", or leave out --cluster.'
            ) from error
        address = _scheduler_address(self._address)
        # What goes wrong there is raised here, in one sentence and without tracebacks.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"{self._address}: no scheduler answers at {address} ({type(error).__name__}), "
                "expected one of dask scheduler. Start it, or correct the address."
            ) from error
        # Closing it cancels what has not begun; what has is ended by its worker.
        self._client = self._open.enter_context(client)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def prepare(self, job: Job) -> None:
        """As `Executor` says: a worker loads the network.

        Raises:
            ClusterError: There is no worker, or one that cannot do cases.
            HemasegError: As `CasePredictor.load`.
        """
        folder = job.folder.absolute()
        nearest = next(there for there in (folder, *folder.parents) if there.is_dir())
        token = self._open.enter_context(TemporaryDirectory(dir=nearest, prefix=".hemaseg-"))
        for run_folder in job.run_folders:
            read_record(run_folder / MODEL, ModelRecord)
        self._order = _Order(
            job=job,
            folder=Path.cwd(),
            token=Path(token),
            model_sha256=tuple(file_sha256(folder / MODEL) for folder in job.run_folders),
            software=_software(),
        )
        for _, reply in self._replies([_Errand(self._order)]):
            if isinstance(reply, Exception):
                raise ClusterError(
                    "workers end when they load the network, expected them not to. Their logs say "
                    "why; most often it is too little memory."
                ) from reply

    def outcomes(
        self, cases: Sequence[tuple[Source, Places]], progress: Progress
    ) -> Iterator[tuple[int, Outcome]]:
        """As `Executor` says, in the order in which workers end them.

        Raises:
            ClusterError: All workers, or the scheduler, are gone, or one cannot do cases.
            CheckpointError: As `CasePredictor.outcome`.
        """
        errands = (_Errand(self._order, _light(source), places) for source, places in cases)
        for number, (index, reply) in enumerate(self._replies(errands)):
            progress(f"on {len(self._workers)} workers", number, len(cases))
            source = cases[index][0]
            if isinstance(reply, Exception):
                yield index, _ended_workers(source)
            elif reply is not None:
                if reply.unseen is not None and reply.unseen.exists():
                    raise _unseen(Path(source.anonymous(str(reply.unseen))), reply.host)
                yield index, reply.outcome

    def _replies(
        self, errands: Iterable[_Errand]
    ) -> Iterator[tuple[int, _Reply | Exception | None]]:
        """The number of each errand and its reply, or the error that it ended several workers."""
        waiting = deque(enumerate(errands))
        token = uuid4().hex[:8]
        ended: SimpleQueue[Future[Any]] = SimpleQueue()
        running: dict[object, tuple[int, Future[Any]]] = {}
        last_s = time.monotonic()
        while waiting or running:
            workers = self._look()
            if workers:
                last_s = time.monotonic()
            elif time.monotonic() - last_s > WAIT_S:
                raise ClusterError(
                    f"{self._address}: no worker for {WAIT_S:.0f} seconds, expected one or more. "
                    f"Start workers (dask worker ADDRESS). {_GO_ON}"
                )
            # Not bound to a worker: Dask takes one that is idle, and another one when it ends.
            while waiting and len(running) < len(workers):
                number, errand = waiting.popleft()
                name = errand.source.name if errand.source else "check"
                future = self._client.submit(
                    _predict, errand, key=f"hemaseg-{token}-{number}-{name}", pure=False
                )
                running[future.key] = number, future
                future.add_done_callback(ended.put)
            try:
                future = ended.get(timeout=LOOK_S)
            except Empty:
                continue
            number, _ = running.pop(future.key)
            yield number, self._reply(future)

    def _look(self) -> set[str]:
        """Addresses of the workers that there are, all with this version of hemaseg."""
        if self._client.status != "running":
            raise self._lost()
        try:
            there = set(self._client.nthreads())
            new = list(there - self._workers)
            # A function that is there without hemaseg: a worker that cannot read a message ends.
            versions = (
                self._client.run(version, "hemaseg", workers=new, on_error="return") if new else {}
            )
        except (OSError, RuntimeError) as error:
            raise self._lost() from error
        for worker, found in versions.items():
            if isinstance(found, OSError):  # It has left already.
                there.discard(worker)
            else:
                _require_version(found, version("hemaseg"), worker)
        self._workers = there
        return there

    def _reply(self, future: "Future[Any]") -> _Reply | Exception | None:
        """The reply, or the error that the errand ended several workers."""
        from distributed import CancelledError, KilledWorker

        try:
            reply: _Reply | HemasegError | None = future.result()
        except KilledWorker as error:
            return error
        except (CancelledError, OSError) as error:
            raise self._lost() from error
        except Exception as error:
            # Not by hemaseg, which raises nothing there: the worker has none, or another one.
            raise ClusterError(
                f"{self._address}: a worker cannot run hemaseg ({type(error).__name__}: {error}). "
                f"Install version {version('hemaseg')} and the same Python on all machines."
            ) from error
        if isinstance(reply, HemasegError):
            raise reply
        return reply

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"{self._address}: the scheduler is gone, expected it to run until the end. Start it "
            f"and its workers again. {_GO_ON}"
        )


def _scheduler_address(given: str) -> str:
    """The address itself, or the one in a file that a scheduler wrote."""
    if _ADDRESS.fullmatch(given):
        return given
    try:
        return str(json.loads(Path(given).read_bytes())["address"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ClusterError(
            f"cluster {given!r} is neither an address nor the file of a scheduler "
            f"({getattr(error, 'strerror', None) or 'another content'}), expected tcp://HOST:PORT "
            "or what dask scheduler --scheduler-file wrote. Correct it."
        ) from None


def _light(source: Source) -> Source:
    """A source without the headers of its series, which a worker reads itself."""
    return replace(source, series=source.series and source.series.without_objects())


def _ended_workers(source: Source) -> Finding:
    return Finding(
        "worker-lost",
        source.anonymous(
            f"{source.shown}: several workers, one after the other, ended while they did this "
            "case, expected them to go on. Their logs say why; most often it is too little memory. "
            "Give workers more, or predict this scan without --cluster."
        ),
    )
