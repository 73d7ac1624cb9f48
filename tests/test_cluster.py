"""`predict --cluster` on real schedulers and workers, processes of their own that tests kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import nibabel as nib
import pytest
import torch
from pydicom import Dataset, dcmread

from command_line import Verb, child, files
from dask_machines import Machines
from dicom_files import phantom_series
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.prediction import cluster
from hemaseg.prediction.records import CaseRecord, read_case_record
from hemaseg.training.checkpoint import WEIGHTS, save_model
from small_heads import small_head, write_heads

MODEL = ModelConfig(name="unet", options={"base_width": 4})


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A scheduler, and two workers of two threads: more than they are to use."""
    with Machines(tmp_path_factory.mktemp("machines")) as started:
        for _ in range(2):
            started.add_worker("--no-nanny", "--nthreads", "2")
        yield started


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A scheduler without workers, which are added by each test and leave again."""
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    with Machines(tmp_path_factory.mktemp("others"), **settings) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, and scans of all kinds: NIfTI, DICOM in one folder and apart, and a damaged file."""
    torch.manual_seed(0)
    run = tmp_path / "run"
    save_model(
        run,
        build_model(MODEL.name, MODEL.options),
        MODEL,
        image_size=32,
        intensity=IntensityConfig(),
        threshold=0.5,
        modality="CT",
    )
    scans = tmp_path / "scans"
    scans.mkdir()
    for seed, name in enumerate("abcd"):
        head = small_head(seed)
        image = nib.Nifti1Image(head.voxels.transpose(), head.affine[:, [2, 1, 0, 3]])
        nib.save(image, scans / f"{name}.nii.gz")
    (scans / "b.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes()[:-30])
    for number, tilt_deg in enumerate((0.0, 15.0), start=1):
        phantom_series(
            scans / "dicom" / f"p{number}",
            num_slices=14,
            spacing_mm=10.0,
            tilt_deg=tilt_deg,
            study_uid=f"1.2.3.{number}",
            patient_name="Doe^John",
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def running(arguments: list[object], code: str = "") -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which ends with the block."""
    command = child(code, *arguments)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not Path(path).exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


def predict(out: str, *more: object) -> list[object]:
    return ["predict", "scans", "--model", "run", "-o", out, "--device", "cpu", *more]


def timeless(out: Path) -> dict[str, bytes | list[dict[str, str]]]:
    """The files of a folder but for what says when they were written, and how long it took."""
    found: dict[str, bytes | list[dict[str, str]]] = dict(files(out))
    for path in (out / name for name in found):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json" and "seconds" in (content := json.loads(path.read_bytes())):
            assert content.pop("seconds")
            found[name] = json.dumps(content).encode()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                assert bool(row.pop("seconds")) == (row["status"] == "done")
            found[name] = rows
        elif path.suffix == ".dcm":
            found[name] = without_times(path)
    return found


def without_times(path: Path) -> bytes:
    dataset = dcmread(path)
    times = []

    def blank(_: Dataset, element: object) -> None:
        if getattr(element, "VR", "") in ("DA", "TM", "DT"):
            times.append(element)
            element.value = ""  # type: ignore[attr-defined]

    dataset.walk(blank)
    assert times
    written = BytesIO()
    dataset.save_as(written)
    return written.getvalue()


def rows(out: str) -> list[dict[str, str]]:
    with Path(out, "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_those_of_one_process_though_a_worker_is_killed(
    hemaseg: Verb, folder: Path, machines: Machines
) -> None:
    machines.add_worker("--no-nanny", "--nthreads", "1")
    (worker, *_) = sorted(machines.client.nthreads())
    machines.client.retire_workers([worker])  # Which leaves two, one of them without torch as yet.
    pids = machines.client.run(os.getpid)
    assert len(pids) == 2
    assert hemaseg(*predict("local", "--probability")).status == 1
    arguments = predict("out", "--probability", "--cluster", machines.scheduler_file)
    with running(arguments) as process:
        killed = kill_the_worker_that_writes(machines, pids, process)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.count("5 of 6 cases done")) == (1, 1)
    assert len(err.splitlines()) == 2  # The failed case, under a header.
    assert "scans/b.nii.gz: " in err
    assert len(machines.client.nthreads()) == 1
    assert record(Path("out"), killed).status == "complete"
    for left in Path("out").rglob(".partial-*"):
        left.unlink()
    found = timeless(Path("out"))
    assert found == timeless(Path("local"))
    assert {Path(name).suffix for name in found} == {".csv", ".dcm", ".gz", ".json", ".png"}


def kill_the_worker_that_writes(
    machines: Machines, pids: dict[str, int], process: subprocess.Popen[str]
) -> str:
    """Kill a worker in the middle of the files of a case; the name of the case."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None
        for path in Path("out").glob("*/[!.]*.json"):
            found = read_case_record(path)
            if found is None or found.status != "writing":
                continue
            for pid in pids.values():
                os.kill(pid, signal.SIGSTOP)
            # Now nothing moves: what is not complete will not be by itself.
            found = read_case_record(path) or found
            is_half = found.status == "writing"
            for worker, keys in machines.client.processing().items():
                is_it = any(str(key).endswith(f"-{found.name}") for key in keys)
                os.kill(pids[worker], signal.SIGKILL if is_it and is_half else signal.SIGCONT)
            if is_half:
                return found.name
        time.sleep(0.002)
    raise AssertionError("no case was seen half written")


def record(out: Path, name: str) -> CaseRecord:
    found = read_case_record(out / name / f"{name}.json")
    assert found is not None
    return found


def test_each_worker_loads_the_model_once_and_has_one_case_at_a_time(
    hemaseg: Verb, folder: Path, machines: Machines
) -> None:
    while len(machines.client.nthreads()) < 2:
        machines.add_worker("--no-nanny", "--nthreads", "2")
    before = machines.client.run(cluster._predictor.cache_info)
    arguments = predict("out", "--cluster", machines.scheduler_file)
    most = 0
    with running(arguments) as process:
        while process.poll() is None:
            most = max(most, *map(len, machines.client.processing().values()))
            time.sleep(0.01)
        assert process.communicate()[0].count("5 of 6 cases done (0 of them before)") == 1
    assert most == 1
    after = machines.client.run(cluster._predictor.cache_info)
    assert [after[worker].misses - before[worker].misses for worker in after] == [1, 1]
    # A check, and six cases.
    calls = [after[worker].hits - before[worker].hits + 1 for worker in after]
    assert sum(calls) == 7
    assert min(calls) >= 1


def test_names_of_bids_and_what_was_done_before(
    hemaseg: Verb, folder: Path, machines: Machines
) -> None:
    Path("scans/dataset_description.json").write_text("{}")
    assert hemaseg(*predict("local", "--bids")).status == 1
    some = ["predict", "scans/d.nii.gz", *predict("out")[2:], "--bids"]
    assert hemaseg(*some, "--cluster", machines.scheduler_file).status == 0
    ended = hemaseg(*predict("out", "--bids", "--cluster", machines.scheduler_file))
    assert "5 of 6 cases done (1 of them before), 1 failed" in ended.out
    # A row of before keeps its place, as it does without a cluster.
    assert [row["name"] for row in rows("out")] == ["d", "a", "b", "c", "p1", "p2"]
    found, local = timeless(Path("out")), timeless(Path("local"))
    for both in (found, local):
        table = both["predictions.csv"]
        assert isinstance(table, list)
        table.sort(key=str)
    assert found == local


def test_ctrl_c_keeps_what_is_done_and_the_cluster(
    hemaseg: Verb, folder: Path, machines: Machines
) -> None:
    for number in range(30):
        shutil.copy("scans/a.nii.gz", f"scans/e{number}.nii.gz")
    arguments = predict("out", "--cluster", machines.scheduler_file)
    workers = machines.client.nthreads()
    # A shell may start its background jobs with interruptions ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with running(arguments, code) as process:
        wait_for("out/d/d.json", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == (
        "out: cases that are done are kept; the same command does the others.\nhemaseg: stopped\n"
    )
    assert machines.client.nthreads() == workers
    assert [row["status"] for row in rows("out")].count("done") in range(1, 30)
    assert not list(folder.glob(".hemaseg-*"))
    ended = hemaseg(*arguments)
    assert "35 of 36 cases done" in ended.out
    assert "(0 of them before)" not in ended.out
    assert len(rows("out")) == 36


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere.json", "neither an address nor the file of a scheduler (No such file"),
        ("scans/a.nii.gz", "neither an address nor the file of a scheduler (another content)"),
        ("nested.json", "neither an address nor the file of a scheduler (another content)"),
        ("127.0.0.1:1", "127.0.0.1:1: no scheduler answers at 127.0.0.1:1 (OSError), expected"),
        ("other://127.0.0.1:1", "no scheduler answers at other://127.0.0.1:1 (ValueError)"),
    ],
)
def test_an_address_without_a_scheduler(
    hemaseg: Verb, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    (folder / "nested.json").write_text("[" * 100_000)
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    ended = hemaseg(*predict("out", "--cluster", address))
    assert (ended.status, ended.out, words in ended.err) == (2, "", True)
    assert not (folder / "out").exists()


def test_what_is_wrong_with_the_model_is_said_as_without_a_cluster(
    hemaseg: Verb, folder: Path, machines: Machines
) -> None:
    content = Path("run", WEIGHTS).read_bytes()
    for damage in (
        lambda: Path("run", WEIGHTS).write_bytes(content[:-9]),
        Path("run", WEIGHTS).unlink,
    ):
        damage()
        local = hemaseg(*predict("out"))
        ended = hemaseg(*predict("out", "--cluster", machines.scheduler_file))
        assert ended == local
        assert ended.status == 2
    assert not (folder / "out").exists()
    assert not list(folder.glob(".hemaseg-*"))


@pytest.mark.parametrize("hidden", ["out", "run", "scans"])
def test_a_worker_that_does_not_see_a_folder(
    hemaseg: Verb, folder: Path, machines: Machines, hidden: str
) -> None:
    """The folder of an open file descriptor, which is another for each process."""
    Path("out").mkdir()
    descriptor = os.open(hidden, os.O_RDONLY)
    try:
        if not Path(f"/proc/self/fd/{descriptor}").is_dir():
            pytest.skip("no files of processes here")
        os.dup2(descriptor, 987)
        places = {name: name for name in ("out", "run", "scans")}
        places[hidden] = "/proc/self/fd/987" + ("/new" if hidden == "out" else "")
        ended = hemaseg(
            *("predict", places["scans"], "--model", places["run"], "-o", places["out"]),
            *("--cluster", machines.scheduler_file),
        )
    finally:
        os.close(descriptor)
        os.close(987)
    assert ended.status == 2
    assert ended.err.startswith("hemaseg: the worker on ")
    assert "does not see /proc/self/fd/987" in ended.err
    assert "expected a file system that all machines share" in ended.err
    done = [name for name in files(folder / "out") if name != "predictions.csv"]
    assert done == []


def test_no_worker(
    hemaseg: Verb, folder: Path, others: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WAIT_S", 0.5)
    monkeypatch.setattr(cluster, "LOOK_S", 0.1)
    ended = hemaseg(*predict("out", "--cluster", others.scheduler_file))
    assert (ended.status, ended.out) == (2, "")
    assert "scheduler.json: no worker for 0 seconds, expected one or more" in ended.err
    assert not (folder / "out").exists()


OTHER = {
    "older/scipy-0.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: scipy\nVersion: 0.9\n",
    "old/hemaseg-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: hemaseg\nVersion: 9.9\n",
    "none/sitecustomize.py": """
from importlib import metadata

def hide(finder):
    find = finder.find_distributions
    finder.find_distributions = staticmethod(
        lambda context: [] if context.name == "hemaseg" else find(context)
    )

hide(metadata.MetadataPathFinder)
try:  # Which Dask loads before Python 3.12, and which finds packages too.
    import importlib_metadata
except ModuleNotFoundError:
    pass
else:
    hide(importlib_metadata.MetadataPathFinder)
""",
}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            "old",
            f"has hemaseg 9.9, expected hemaseg {version('hemaseg')} as here. Install the same",
        ),
        ("older", "has scipy 0.9, expected scipy "),
        ("none", "has no hemaseg (No package metadata was found for hemaseg), expected hemaseg "),
    ],
)
def test_a_worker_with_other_software_or_none(
    hemaseg: Verb, folder: Path, others: Machines, place: str, words: str
) -> None:
    for name, text in OTHER.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    path = os.pathsep.join([str(folder / place), os.environ.get("PYTHONPATH", "")])
    worker = others.add_worker("--no-nanny", "--nthreads", "1", PYTHONPATH=path)
    ended = hemaseg(*predict("out", "--cluster", others.scheduler_file))
    others.end(worker)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("hemaseg: the worker on ")
    assert words in ended.err
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_a_case_that_ends_workers_fails_alone(
    hemaseg: Verb, folder: Path, others: Machines
) -> None:
    """A worker that ends as soon as it opens a certain file; its nanny starts another one."""
    hook = folder / "hook.py"
    hook.write_text(
        "import os, sys\n"
        "def end(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('c.nii.gz'):\n"
        "        os._exit(9)\n"
        "sys.addaudithook(end)\n"
    )
    worker = others.add_worker("--nthreads", "1", "--preload", str(hook))
    ended = hemaseg(*predict("out", "--cluster", others.scheduler_file))
    others.end(worker)
    assert (ended.status, ended.out.count("4 of 6 cases done")) == (1, 1)
    kinds = {row["name"]: row["problem"].partition(":")[0] for row in rows("out")}
    assert [kinds[name] for name in "abcd"] == ["", "gzip-damaged", "worker-lost", ""]
    assert "scans/c.nii.gz: several workers, one after the other, ended while they" in ended.err
    assert "5 of 6 cases done (4 of them before)" in hemaseg(*predict("out")).out


@pytest.mark.slow
def test_a_scheduler_that_is_gone(folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        shutil.copy("scans/a.nii.gz", f"scans/e{number}.nii.gz")
    with Machines(tmp_path) as own:
        own.add_worker("--no-nanny", "--nthreads", "1")
        arguments = predict("out", "--cluster", own.scheduler_file)
        with running(arguments) as process:
            wait_for("out/d/d.json", process)
            own.end()
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"hemaseg: {own.scheduler_file}: the scheduler is gone, expected it to run until the end. "
        "Start it and its workers again. Cases that are done are kept; the same command does the "
        "others.\n"
    )
    assert len(rows("out")) in range(1, 36)


def test_without_the_option_dask_is_not_loaded(folder: Path) -> None:
    code = (
        "import atexit; atexit.register(lambda: print({'dask', 'distributed', 'tornado'}"
        " & set(sys.modules)))"
    )
    ended = subprocess.run(child(code, *predict("out")), capture_output=True, text=True)
    assert "5 of 6 cases done" in ended.stdout
    assert ended.stdout.endswith("set()\n")


def test_without_dask_the_extra_is_named(folder: Path) -> None:
    Path("none/distributed").mkdir(parents=True)
    Path("none/distributed/__init__.py").write_text("raise ImportError('none here')\n")
    code = f"sys.path.insert(0, {str(folder / 'none')!r})"
    ended = subprocess.run(
        child(code, *predict("out", "--cluster", "127.0.0.1:1")), capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "hemaseg: Dask is not installed or damaged (none here). Install it, here and on the "
        'workers, by pip install "hemaseg[cluster]", or leave out --cluster.\n'
    )


def test_not_for_a_cohort(hemaseg: Verb, folder: Path) -> None:
    write_heads(Path("cohort"), num_subjects=2, seed=0)
    assert hemaseg("index", "cohort", "-o", "cohort.csv").status == 0
    ended = hemaseg("predict", "cohort.csv", "--model", "run", "-o", "out", "--cluster", "h:1")
    assert (ended.status, "--cluster: not for a cohort.csv" in ended.err) == (2, True)
