"""Which files are masks, and one mask of each format; SEG files of other tools: test_seg_scores."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemaseg.dicom.seg import write_seg
from hemaseg.errors import ScanError
from hemaseg.evaluation.mask_files import is_mask_file, read_mask_file
from hemaseg.scans.images import write_mask
from hemaseg.scans.screening import ReadOptions
from seg_files import ALGORITHM, random_mask, random_series


def test_a_mask_is_read_from_any_format(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    mask = random_mask(scan)
    write_mask(mask, scan, tmp_path / "m.nii.gz")
    write_seg(mask, scan, tmp_path / "1.2.3", algorithm=ALGORITHM)
    pages = [Image.fromarray(page) for page in mask]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    for name, uid in (("m.nii.gz", None), ("1.2.3", scan.dicom), ("m.tif", None)):
        assert is_mask_file(tmp_path / name)
        read = read_mask_file(tmp_path / name)
        np.testing.assert_array_equal(read.voxels, mask)
        assert (read.frame_of_reference is None) == (uid is None)
    assert scan.dicom is not None
    seg = read_mask_file(tmp_path / "1.2.3", label=1)
    assert seg.frame_of_reference == scan.dicom.headers[0].FrameOfReferenceUID
    with pytest.raises(ScanError, match=r"1\.2\.3: segments 1, expected segment 2"):
        read_mask_file(tmp_path / "1.2.3", label=2)
    with pytest.raises(ScanError) as caught:
        read_mask_file(tmp_path / "1.2.3", ReadOptions(max_bytes=100))
    assert caught.value.kind == "too-large"


def test_other_files_are_no_masks(tmp_path: Path) -> None:
    random_series(tmp_path / "in", "axial")
    (tmp_path / "text.csv").write_text("no mask")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    series = sorted((tmp_path / "in").iterdir())
    others = [tmp_path / name for name in ("text.csv", "empty", "folder", "gone")]
    assert not any(map(is_mask_file, (*series, *others)))
    for path, kind in ((others[0], "not-an-image"), (others[3], "missing")):
        with pytest.raises(ScanError) as caught:
            read_mask_file(path)
        assert caught.value.kind == kind
    with pytest.raises(ScanError) as caught:
        read_mask_file(series[0])
    assert caught.value.kind == "not-a-segmentation"
