"""Mask files of any tool: which files are some, and one mask of them."""

from pathlib import Path

from hemaseg.scans.images import read_scan
from hemaseg.scans.nifti import is_nifti
from hemaseg.scans.pictures import is_picture
from hemaseg.scans.scan import Scan, mask_of_label
from hemaseg.scans.screening import ReadOptions, Screen, reading

# "DICM" follows 128 bytes of anything; the SOP class comes within the next few elements.
_PREAMBLE, _HEAD = 128, 256
# Segmentation Storage and Label Map Segmentation Storage.
_SEG_CLASSES = (b"1.2.840.10008.5.1.4.1.1.66.4", b"1.2.840.10008.5.1.4.1.1.66.7")


def is_mask_file(path: Path) -> bool:
    """Whether a file can be a mask: NIfTI or a picture by its name, a DICOM SEG by its content."""
    return is_nifti(path) or is_picture(path) or _is_segmentation(path)


def read_mask_file(
    path: Path, options: ReadOptions | None = None, *, label: int | None = None
) -> Scan:
    """A mask, or one label of it, as a scan with boolean voxels.

    Args:
        path: NIfTI, PNG, TIFF or DICOM SEG.
        options: How the file is read.
        label: Which label of a map of labels, or segment of a DICOM SEG; None for masks of two
            values or one segment.

    Raises:
        ScanError: The file cannot be read, or is no mask; see `mask_of_label` and `read_seg`.
    """
    options = options or ReadOptions()
    with reading(path, Screen(str(path), options)):
        is_dicom = _is_dicom(_head(path))
    if is_dicom:
        # pydicom is slow to load, and most masks are no DICOM files.
        from hemaseg.dicom.segments import read_seg

        return read_seg(path, options, segment=label)
    return mask_of_label(read_scan(path, options), label)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_dicom(head: bytes) -> bool:
    return head[_PREAMBLE:].startswith(b"DICM")


def _is_segmentation(path: Path) -> bool:
    try:
        head = _head(path)
    except OSError:
        return False
    return _is_dicom(head) and any(name in head for name in _SEG_CLASSES)
