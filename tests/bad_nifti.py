"""NIfTI files with one fault each; see `bad_inputs`."""

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bad_inputs import HEAD, BadInput, Inputs, head_bytes, write
from hemaseg.scans.screening import KINDS, ReadOptions

INPUTS = Inputs()

# One wrong field of the header each.

_BY_QFORM = {"sform_code": 0, "qform_code": 1}


def _pixdim(*edges: float) -> list[float]:
    return [1, *edges, 0, 0, 0, 0]


_SROW_X = np.array([-3.5, 0, 0, 110.25])
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "nifti_wrong_magic": ("nifti-header", {"magic": b"abc"}),
    "nifti_half_of_a_pair": ("nifti-header", {"magic": b"ni1"}),
    "nifti_wrong_header_size": ("nifti-header", {"sizeof_hdr": 349}),
    "nifti_dimension_of_zero": ("dimensions", {"dim": [3, 64, 0, 16, 1, 1, 1, 1]}),
    "nifti_negative_dimension": ("dimensions", {"dim": [3, 64, -64, 16, 1, 1, 1, 1]}),
    "nifti_nine_dimensions": ("dimensions", {"dim": [9, 64, 64, 16, 1, 1, 1, 1]}),
    "nifti_absurd_dimensions": ("too-large", {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}),
    "nifti_more_slices_than_bytes": ("truncated", {"dim": [3, 64, 64, 32, 1, 1, 1, 1]}),
    "nifti_fewer_slices_than_bytes": ("surplus-bytes", {"dim": [3, 64, 64, 8, 1, 1, 1, 1]}),
    "nifti_four_dimensions": ("not-3d", {"dim": [4, 64, 64, 8, 2, 1, 1, 1]}),
    "nifti_two_dimensions": ("not-3d", {"dim": [2, 64, 1024, 1, 1, 1, 1, 1]}),
    "nifti_unknown_type": ("voxel-type", {"datatype": 9999}),
    "nifti_of_bits_that_contradict_its_type": ("voxel-type", {"bitpix": 8}),
    "nifti_voxels_within_the_header": ("vox-offset", {"vox_offset": 100}),
    "nifti_voxels_before_the_file": ("vox-offset", {"vox_offset": -16}),
    "nifti_voxels_at_no_whole_byte": ("vox-offset", {"vox_offset": 352.5}),
    "nifti_voxels_nowhere": ("vox-offset", {"vox_offset": np.nan}),
    "nifti_voxels_too_far": ("vox-offset", {"vox_offset": 1e30}),
    "nifti_infinite_slope": ("scale-factor", {"scl_slope": np.inf, "scl_inter": 0}),
    "nifti_intercept_not_a_number": ("scale-factor", {"scl_slope": 1, "scl_inter": np.nan}),
    "nifti_neither_form": ("no-geometry", {"sform_code": 0, "qform_code": 0}),
    "nifti_in_metres": ("not-mm", {"xyzt_units": 1}),
    "nifti_in_micrometres": ("not-mm", {"xyzt_units": 3}),
    "nifti_spacing_of_zero": ("voxel-size", {**_BY_QFORM, "pixdim": _pixdim(0, 3.5, 8)}),
    "nifti_negative_spacing": ("voxel-size", {**_BY_QFORM, "pixdim": _pixdim(3.5, 3.5, -8)}),
    "nifti_infinite_spacing": ("voxel-size", {**_BY_QFORM, "pixdim": _pixdim(3.5, np.inf, 8)}),
    "nifti_in_nanometres": ("voxel-size", {"srow_x": _SROW_X * 1e-6}),
    "nifti_affine_not_a_number": ("affine-not-finite", {"srow_x": _SROW_X * np.nan}),
    "nifti_affine_in_kilometres": ("affine-not-finite", {"srow_x": _SROW_X * 1e9}),
    "nifti_flat_affine": ("affine-singular", {"srow_x": _SROW_X * 0}),
    "nifti_two_voxel_sizes": ("forms-disagree", {"qform_code": 1, "pixdim": _pixdim(3.5, 3.5, 9)}),
    "nifti_qform_that_is_no_rotation": ("forms-disagree", {"qform_code": 1, "quatern_b": 2}),
    "nifti_qform_not_a_number": ("forms-disagree", {"qform_code": 1, "quatern_b": np.nan}),
    "nifti_two_places": ("forms-apart", {"qform_code": 1, "qoffset_x": -40}),
    "nifti_two_sides": ("forms-disagree", {"qform_code": 1, "quatern_c": 0, "quatern_d": 0}),
    "nifti_spacing_beside_the_affine": ("voxel-size-ignored", {"pixdim": _pixdim(3.5, 3.5, 9)}),
    "nifti_spacing_of_zero_beside_the_affine": (
        "voxel-size-ignored",
        {"pixdim": _pixdim(0, 3.5, 8)},
    ),
    "nifti_time_series_of_one": ("axes-dropped", {"dim": [4, 64, 64, 16, 1, 1, 1, 1]}),
}


def _header(name: str, fields: dict[str, Any], folder: Path) -> Path:
    return write(folder / f"{name}.nii", head_bytes(**fields))


for _name, (_kind, _fields) in HEADERS.items():
    # What is read must say its modality, or that is a second finding.
    _options = ReadOptions(modality="" if KINDS[_kind].action == "refused" else "CT")
    INPUTS[_name] = BadInput(_kind, partial(_header, _name, _fields), _options)


# Bytes and voxels.


@INPUTS.add("truncated")
def nifti_cut_in_half(folder: Path) -> Path:
    data = head_bytes()
    return write(folder / "head.nii", data[: len(data) // 2])


@INPUTS.add("truncated")
def nifti_packed_after_it_was_cut(folder: Path) -> Path:
    data = head_bytes()
    return write(folder / "head.nii.gz", data[: len(data) // 2])


@INPUTS.add("nifti-header")
def nifti_cut_in_its_header(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes()[:200])


@INPUTS.add("surplus-bytes")
def nifti_with_four_bytes_more(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes() + b"\0\0\0\0")


@INPUTS.add("gzip-damaged")
def gzip_cut_in_half(folder: Path) -> Path:
    data = gzip.compress(head_bytes())
    (folder / "head.nii.gz").write_bytes(data[: len(data) // 2])
    return folder / "head.nii.gz"


@INPUTS.add("gzip-damaged")
def gzip_with_a_wrong_checksum(folder: Path) -> Path:
    data = bytearray(gzip.compress(head_bytes()))
    data[-8] ^= 1
    (folder / "head.nii.gz").write_bytes(data)
    return folder / "head.nii.gz"


@INPUTS.add("gzip-damaged")
def gzip_that_is_not_packed(folder: Path) -> Path:
    (folder / "head.nii.gz").write_bytes(head_bytes())
    return folder / "head.nii.gz"


@INPUTS.add("gzip-bomb")
def gzip_bomb(folder: Path) -> Path:
    write_gzip_bomb(folder / "head.nii.gz", num_mib=8)
    return folder / "head.nii.gz"


def write_gzip_bomb(path: Path, *, num_mib: int) -> None:
    """A good head, followed by that many MiB of zeros, in a thousandth of the space."""
    # Packed streams one after the other are one stream.
    path.write_bytes(gzip.compress(head_bytes()) + gzip.compress(bytes(2**20)) * num_mib)


@INPUTS.add("too-large", max_bytes=100_000)
def nifti_larger_than_the_limit(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes())


@INPUTS.add("too-large", max_bytes=100_000)
def gzip_that_inflates_beyond_the_limit(folder: Path) -> Path:
    return write(folder / "head.nii.gz", head_bytes(np.sign(HEAD.voxels)))


@INPUTS.add("too-large")
def nifti_2_whose_size_overflows(folder: Path) -> Path:
    dim = [3, 2**40, 2**40, 2**40, 1, 1, 1, 1]
    return write(folder / "head.nii", head_bytes(kind=nib.Nifti2Image, dim=dim))


@INPUTS.add("voxel-type")
def nifti_of_colours(folder: Path) -> Path:
    voxels = np.zeros(HEAD.voxels.shape, [(channel, "u1") for channel in "RGB"])
    return write(folder / "head.nii", head_bytes(voxels))


@INPUTS.add("voxel-type")
def nifti_of_complex_numbers(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes(HEAD.voxels.astype(np.complex64)))


@INPUTS.add("not-finite")
def nifti_with_one_voxel_not_a_number(folder: Path) -> Path:
    voxels = HEAD.voxels.astype(np.float32)
    voxels[8, 32, 32] = np.nan
    return write(folder / "head.nii", head_bytes(voxels))


@INPUTS.add("not-finite")
def nifti_with_one_infinite_voxel(folder: Path) -> Path:
    voxels = HEAD.voxels.astype(np.float32)
    voxels[8, 32, 32] = -np.inf
    return write(folder / "head.nii", head_bytes(voxels))


@INPUTS.add("constant")
def nifti_of_zeros(folder: Path) -> Path:
    return write(folder / "head.nii.gz", head_bytes(np.zeros_like(HEAD.voxels)))


@INPUTS.add("label-map")
def nifti_of_three_labels(folder: Path) -> Path:
    labels = np.digitize(HEAD.voxels, (0, 30, 60)).astype(np.float32)
    return write(folder / "head.nii.gz", head_bytes(labels))


@INPUTS.add("not-hu", modality="CT")
def nifti_ct_as_grey_values(folder: Path) -> Path:
    voxels = np.interp(HEAD.voxels, (0, 80), (0, 255)).astype(np.uint8)
    return write(folder / "head.nii", head_bytes(voxels))


@INPUTS.add("not-hu", modality="CT")
def nifti_ct_with_its_offset(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes(HEAD.voxels + np.int16(1024)))


@INPUTS.add("identity-affine", modality="CT")
def nifti_whose_geometry_got_lost(folder: Path) -> Path:
    wide = HEAD.voxels.repeat(2, axis=1).repeat(2, axis=2)
    lost = {f"srow_{axis}": np.eye(4)[row] for row, axis in enumerate("xyz")}
    return write(folder / "head.nii", head_bytes(wide, pixdim=_pixdim(1, 1, 1), **lost))


# Good files that show something else than a head in axial slices.


def _turned(deg: float, axis: int) -> NDArray[np.float64]:
    """The affine of the head, turned about an axis of the patient (0 right, 1 anterior)."""
    first, second = [other for other in range(3) if other != axis]
    turn = np.eye(4)
    turn[[first, second], [first, second]] = np.cos(np.radians(deg))
    turn[first, second], turn[second, first] = -np.sin(np.radians(deg)), np.sin(np.radians(deg))
    return np.asarray(turn @ HEAD.affine)


@INPUTS.add("non-axial")
def nifti_of_coronal_slices(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes(affine=_turned(90, axis=0)))


@INPUTS.add("oblique", modality="CT")
def nifti_of_oblique_slices(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes(affine=_turned(20, axis=0)))


@INPUTS.add("sheared")
def nifti_with_pixels_askew(folder: Path) -> Path:
    affine = HEAD.affine.copy()
    affine[0, 1] = 1.5  # Rows drift to the right on their way down.
    return write(folder / "head.nii", head_bytes(affine=affine))


@INPUTS.add("gantry-tilt", modality="CT")
def nifti_with_gantry_tilt(folder: Path) -> Path:
    affine = HEAD.affine.copy()
    affine[1, 0] = 3.0  # Slices drift to anterior on their way up.
    return write(folder / "head.nii", head_bytes(affine=affine))


@INPUTS.add("few-slices")
def nifti_of_two_slices(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes(HEAD.voxels[7:9]))


@INPUTS.add("not-a-head")
def nifti_of_the_size_of_a_mouse(folder: Path) -> Path:
    affine = HEAD.affine @ np.diag([0.1, 0.1, 0.1, 1])
    return write(folder / "head.nii", head_bytes(affine=affine))


@INPUTS.add("modality-guessed", network="CT")
def nifti_of_a_ct_that_does_not_say_so(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes())


@INPUTS.add("modality-assumed", network="MRI")
def nifti_of_which_nobody_knows_the_modality(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes(HEAD.voxels.clip(0, 100)))


@INPUTS.add("wrong-modality", modality="CT", network="MRI")
def nifti_of_a_ct_for_a_network_of_mri(folder: Path) -> Path:
    return write(folder / "head.nii", head_bytes())
