import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import Cohort, write_cohort
from hemaseg.config import IntensityConfig, Recipe, SlicesConfig
from hemaseg.errors import CohortError
from hemaseg.files import PARTIAL
from hemaseg.slices import cache
from hemaseg.slices.cache import IMAGES, LOCK, MASKS, RECORD, cached_slices, remove_slices
from hemaseg.slices.dataset import SliceSet, load_slices
from small_heads import write_heads

RECIPE = Recipe(description="test", slices=SlicesConfig(image_size=32))
BRIGHT = RECIPE.model_copy(update={"intensity": IntensityConfig(window_hu=(0.0, 40.0))})
SMALL = RECIPE.model_copy(update={"slices": SlicesConfig(image_size=16)})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("heads")
    write_heads(folder, num_subjects=6, seed=3)
    return index_folder(folder, modality="CT")


class Counter:
    """Of the image files that were decoded."""

    def __init__(self) -> None:
        self.num = 0

    def __call__(self, done: int, total: int) -> None:
        self.num += 1


def num_decoded(cohort: Cohort, recipe: Recipe, folder: Path) -> int:
    """How many image files were decoded for slices that are as they should be."""
    counter = Counter()
    assert_equal(
        cached_slices(cohort, recipe, folder, progress=counter), load_slices(cohort, recipe)
    )
    return counter.num


def assert_equal(found: SliceSet, expected: SliceSet) -> None:
    assert found.names == expected.names
    for ours, theirs in ((found.images, expected.images), (found.masks, expected.masks)):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.rglob("*") if path.is_file()}


def test_decoded_once_for_each_cohort_and_recipe(cohort: Cohort, tmp_path: Path) -> None:
    some = cohort.select(cohort.subjects[:2])
    for num, (asked, recipe) in enumerate(
        ((cohort, RECIPE), (cohort, SMALL), (cohort, BRIGHT), (some, RECIPE)), 1
    ):
        assert num_decoded(asked, recipe, tmp_path) == len(asked.images)
        assert num_decoded(asked, recipe, tmp_path) == 0
        assert len(list(tmp_path.iterdir())) == num


def test_what_does_not_decide_a_slice_decides_no_key(cohort: Cohort, tmp_path: Path) -> None:
    other = RECIPE.model_copy(
        update={"description": "another", "slices": SlicesConfig(image_size=32, negative_share=0.5)}
    )
    cached_slices(cohort, RECIPE, tmp_path)
    assert num_decoded(cohort, other, tmp_path) == 0


def test_parts_are_what_is_loaded_of_them(cohort: Cohort, tmp_path: Path) -> None:
    every = cached_slices(cohort, RECIPE, tmp_path)
    for subjects in (cohort.subjects[::2], cohort.subjects[3:0:-1], cohort.subjects):
        part = every.of_subjects(subjects)
        assert_equal(part, load_slices(cohort.select(subjects), RECIPE))
        part.images.zero_()
    assert len(every.of_subjects([])) == 0
    assert num_decoded(cohort, RECIPE, tmp_path) == 0


def test_what_is_done_to_the_tensors_reaches_no_file(cohort: Cohort, tmp_path: Path) -> None:
    slices = cached_slices(cohort, RECIPE, tmp_path)
    slices.images.zero_()
    slices.masks.zero_()
    assert num_decoded(cohort, RECIPE, tmp_path) == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_slices_are_read_when_they_are_used(cohort: Cohort, tmp_path: Path) -> None:
    """The arrays are those of files that others can open too, mapped and not copied."""
    slices = cached_slices(cohort, RECIPE, tmp_path)
    for tensor, name in ((slices.images, IMAGES), (slices.masks, MASKS)):
        path = files(tmp_path)[name]
        assert np.array_equal(np.load(path, allow_pickle=False), tensor.numpy())
        assert str(path) in Path("/proc/self/maps").read_text()


pictures = st.lists(
    st.tuples(
        st.sampled_from("abc"),  # subject
        st.integers(0, 4),  # slice
        st.sampled_from(["lesion", "negative", "unmarked"]),
        st.integers(1, 65535),  # the brightest pixel
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda picture: picture[:2],
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pictures=pictures, size=st.sampled_from([(8, 8), (5, 13), (40, 9)]))
def test_stacks_of_pictures_some_of_them_unmarked(
    tmp_path_factory: pytest.TempPathFactory,
    pictures: list[tuple[str, int, str, int]],
    size: tuple[int, int],
) -> None:
    """The range is that of a scan with its unmarked slices; what has no mask is left out."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for subject, number, kind, level in pictures:
        pixels = rng.integers(0, level, size, dtype=np.uint16, endpoint=True)
        Image.fromarray(pixels).save(folder / "images" / f"{subject}_{number}.png")
        mask = np.zeros(size, np.uint8)
        mask[1:4, 1:3] = 255 * (kind == "lesion")
        if kind != "unmarked":
            Image.fromarray(mask).save(folder / "masks" / f"{subject}_{number}.png")
    if {kind for *_, kind, _ in pictures} == {"unmarked"}:
        return
    cohort = index_folder(folder, modality="MRI")
    subjects = sorted({case.subject for case in cohort.marked().images})
    every = cached_slices(cohort, RECIPE, folder / "cache")
    for chosen in (subjects, subjects[:1], subjects[-1:]):
        assert_equal(every.of_subjects(chosen), load_slices(cohort.select(chosen), RECIPE))


def test_a_cohort_without_references_is_refused_and_leaves_nothing(
    cohort: Cohort, tmp_path: Path
) -> None:
    bare = Cohort(
        tuple(
            replace(case, mask=None, lesion_pixels=None, lesion_ml=math.nan)
            for case in cohort.images[:2]
        )
    )
    with pytest.raises(CohortError, match="none of 2 images has a reference mask"):
        cached_slices(bare, RECIPE, tmp_path)
    assert set(files(tmp_path)) <= {LOCK}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", [IMAGES, MASKS, RECORD])
def test_what_is_damaged_is_made_anew(
    cohort: Cohort, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    cached_slices(cohort, RECIPE, tmp_path)
    before = files(tmp_path)[RECORD].read_bytes()
    damage(files(tmp_path)[name])
    if (name, damage) == (RECORD, flip):  # of a line end, which says nothing
        files(tmp_path)[name].write_bytes(before.replace(b'"key":"', b'"key":"0'))
    assert num_decoded(cohort, RECIPE, tmp_path) == len(cohort.images)
    assert num_decoded(cohort, RECIPE, tmp_path) == 0
    assert files(tmp_path)[RECORD].read_bytes() == before
    assert set(files(tmp_path)) == {IMAGES, MASKS, RECORD, LOCK}


@pytest.mark.parametrize(
    "change",
    [
        lambda record, place: record | {"names": record["names"][1:]},
        lambda record, place: record | {"images_sha256": record["masks_sha256"]},
        lambda record, place: record | {"more": 1},
        lambda record, place: [],
        lambda record, place: swapped(record, place),
    ],
)
def test_a_record_that_does_not_fit_its_files_is_not_believed(
    cohort: Cohort, tmp_path: Path, change: Callable[[dict[str, object], Path], object]
) -> None:
    cached_slices(cohort, RECIPE, tmp_path)
    path = files(tmp_path)[RECORD]
    path.write_text(json.dumps(change(json.loads(path.read_text()), path.parent)))
    assert num_decoded(cohort, RECIPE, tmp_path) == len(cohort.images)


def swapped(record: dict[str, object], place: Path) -> dict[str, object]:
    """Masks for images and images for masks, with the hashes that they have."""
    (place / IMAGES).rename(place / "other")
    (place / MASKS).rename(place / IMAGES)
    (place / "other").rename(place / MASKS)
    return record | {
        "images_sha256": record["masks_sha256"],
        "masks_sha256": record["images_sha256"],
    }


def test_slices_of_another_place_are_not_taken(cohort: Cohort, tmp_path: Path) -> None:
    cached_slices(cohort, RECIPE, tmp_path / "a")
    cached_slices(cohort, BRIGHT, tmp_path / "b")
    (ours,), (theirs,) = ((tmp_path / name).iterdir() for name in "ab")
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    assert num_decoded(cohort, RECIPE, tmp_path / "a") == len(cohort.images)


def test_a_file_that_changed_is_refused_as_when_decoding(tmp_path: Path) -> None:
    write_heads(tmp_path / "heads", num_subjects=2, seed=3)
    cohort = index_folder(tmp_path / "heads", modality="CT")
    cached_slices(cohort, RECIPE, tmp_path / "cache")
    one, two = cohort.images
    os.utime(one.image, ns=(0, 0))
    assert num_decoded(cohort, RECIPE, tmp_path / "cache") == 2
    assert num_decoded(cohort, RECIPE, tmp_path / "cache") == 0
    assert one.mask is not None
    os.utime(one.mask, ns=(0, 0))
    assert num_decoded(cohort, RECIPE, tmp_path / "cache") == 2
    shutil.copy(two.image, one.image)
    with pytest.raises(CohortError, match="The file has changed since it was indexed"):
        cached_slices(cohort, RECIPE, tmp_path / "cache")


def test_another_modality_is_another_range(tmp_path: Path) -> None:
    """Which the hash of a cohort does not say."""
    write_heads(tmp_path / "heads", num_subjects=2, seed=3)
    ct, mri = (index_folder(tmp_path / "heads", modality=name) for name in ("CT", "MRI"))
    assert ct.sha256 == mri.sha256
    for cohort in (ct, mri):
        assert num_decoded(cohort, RECIPE, tmp_path / "cache") == 2


def test_another_label_is_another_mask(cohort: Cohort, tmp_path: Path) -> None:
    """Which the hash of a cohort does not say either, if both labels are as large."""
    labelled = Cohort(tuple(replace(case, label=1) for case in cohort.images))
    assert cohort.sha256 == labelled.sha256
    for other in (cohort, labelled):
        assert num_decoded(other, RECIPE, tmp_path / "cache") == 6


def test_a_disk_without_room_is_told_before_it_is_full(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = 6 * 16 * 32 * 32 * 3
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4 * num_bytes - 1))
    counter = Counter()
    with pytest.raises(OSError, match="No space left on device") as caught:
        cached_slices(cohort, RECIPE, tmp_path, progress=counter)
    assert caught.value.errno == errno.ENOSPC
    assert counter.num == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4 * num_bytes))
    assert num_decoded(cohort, RECIPE, tmp_path) == len(cohort.images)


def test_a_disk_that_becomes_full_is_told_and_left_as_it_was(
    cohort: Cohort, tmp_path: Path
) -> None:
    """By a limit on the size of files, which the system tells in the same way."""
    write_cohort(cohort, tmp_path / "cohort.csv")
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from hemaseg.cohorts.table import read_cohort\nfrom test_cache import RECIPE\n"
        "from hemaseg.slices.cache import cached_slices\n"
        "cohort = read_cohort(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    cached_slices(cohort, RECIPE, Path(sys.argv[2]))\n"
        "except OSError as error:\n    print(error.strerror)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cohort.csv"), str(tmp_path / "cache")],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "File too large\n"
    assert set(files(tmp_path / "cache")) == {LOCK}


ASKING = (
    "import sys\nfrom pathlib import Path\nfrom hemaseg.cohorts.table import read_cohort\n"
    "from hemaseg.slices.cache import cached_slices\nfrom test_cache import RECIPE, Counter\n"
    "counter = Counter()\ncohort = read_cohort(Path(sys.argv[1]))\n"
    "print('ready', flush=True)\nsys.stdin.readline()\n"
    "slices = cached_slices(cohort, RECIPE, Path(sys.argv[2]), progress=counter)\n"
    "print(counter.num, float(slices.images.double().sum()), int(slices.masks.sum()))"
)


def test_several_that_ask_at_once_decode_once(cohort: Cohort, tmp_path: Path) -> None:
    write_cohort(cohort, tmp_path / "cohort.csv")
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASKING, str(tmp_path / "cohort.csv"), str(tmp_path / "cache")],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in asking:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    out = [process.communicate(timeout=120)[0].split() for process in asking]
    slices = load_slices(cohort, RECIPE)
    sums = [str(float(slices.images.double().sum())), str(int(slices.masks.sum()))]
    assert sorted(out) == sorted([[str(num), *sums] for num in (0, 0, len(cohort.images))])


def test_a_kill_while_writing_costs_that_work_alone(cohort: Cohort, tmp_path: Path) -> None:
    write_cohort(cohort, tmp_path / "cohort.csv")
    code = ASKING.replace(
        "counter = Counter()\n",
        "import os\ndef counter(done, total):\n    done == 4 and os.kill(os.getpid(), 9)\n",
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cohort.csv"), str(tmp_path / "cache")],
        cwd=Path(__file__).parent,
        input="\n",
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert ended.returncode == -9
    assert sum(name.startswith(PARTIAL) for name in files(tmp_path / "cache")) == 2
    assert num_decoded(cohort, RECIPE, tmp_path / "cache") == len(cohort.images)
    assert set(files(tmp_path / "cache")) == {IMAGES, MASKS, RECORD, LOCK}


def test_removing_takes_what_was_written_and_nothing_else(cohort: Cohort, tmp_path: Path) -> None:
    folder = tmp_path / "slices"
    remove_slices(folder)
    for recipe in (RECIPE, SMALL):
        cached_slices(cohort, recipe, folder)
    (next(folder.iterdir()) / f"{PARTIAL}1.npy").touch()
    (folder / "mine").mkdir()
    (folder / "mine" / IMAGES).touch()
    remove_slices(folder)
    assert [path.relative_to(folder) for path in folder.rglob("*")] == [
        Path("mine"),
        Path("mine") / IMAGES,
    ]
    shutil.rmtree(folder / "mine")
    remove_slices(folder)
    assert not folder.exists()


def test_strides_of_slices_do_not_matter(tmp_path: Path) -> None:
    by_column = np.asfortranarray(np.arange(120, dtype=np.float16).reshape(2, 1, 10, 6))
    assert not by_column.flags.c_contiguous
    with (tmp_path / "images.npy").open("w+b") as file:
        cache._append(by_column, file, 2)
        cache._append(by_column[:1], file, 3)
    found = np.load(tmp_path / "images.npy", allow_pickle=False)
    np.testing.assert_array_equal(found, np.concatenate([by_column, by_column[:1]]))
