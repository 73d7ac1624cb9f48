"""Masks as DICOM segmentations (SEG): written on the instances of a series, and read from any tool.

A SEG that is written here has a frame for each slice of the scan, with the slice's own position,
also where the mask is empty: a reader sees which slices were searched, and an uneven series keeps
its geometry. Nothing is copied from the headers of the scan but what `_source_slices` lists; what
identifies a person only if asked for.
"""

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from hemaseg.dicom.attributes import quiet_pydicom
from hemaseg.dicom.objects import object_bytes
from hemaseg.dicom.references import (
    blank_identity,
    content_uid,
    copy_identity,
    frame_value,
    source_references,
)
from hemaseg.dicom.segments import read_seg
from hemaseg.files import whole_file
from hemaseg.scans.scan import DicomSource, Scan, to_stored

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

__all__ = ["Algorithm", "read_seg", "write_seg"]

SERIES_NUMBER = 9001
TRACKING_ID = "hemaseg hemorrhage"
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True)
class Algorithm:
    """What made a mask, for the DICOM objects that hold or describe it.

    Attributes:
        name: Of the network.
        version: Of the software or the run that trained it.
        weights_sha256: Of the file of weights; empty if there is none.

    Raises:
        ValueError: A text that DICOM cannot hold: not 1 to 64 printable ASCII characters, or with
            a backslash (`weights_sha256` may be empty).

    >>> Algorithm("DR U-Net", "0.1.0").name
    'DR U-Net'
    """

    name: str
    version: str
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        for word in (self.name, self.version, self.weights_sha256 or "none"):
            is_plain = word.isascii() and word.isprintable() and "\\" not in word
            if not (is_plain and word.strip() and len(word) <= 64):
                raise ValueError(
                    f"algorithm has {word!r}, expected 1 to 64 printable ASCII characters without "
                    "backslash"
                )


def write_seg(
    mask: NDArray[np.bool_],
    like: Scan,
    path: Path,
    *,
    algorithm: Algorithm,
    keep_identity: bool = False,
) -> None:
    """Write a mask as a binary DICOM SEG on the instances that `like` was read from.

    One segment, Hemorrhage (SNOMED CT 50960005) in the Brain (12738006), one frame per slice, each
    with the position and orientation of its slice and a reference to it. An empty mask is written
    with empty frames. The file appears complete or not at all.

    UIDs are made of what the SEG holds (instances, mask, algorithm, version, identity), so that a
    rerun gives the same object and an archive does not collect copies; times are of the writing.

    Args:
        mask: (K, H, W), in display order as `like.voxels`.
        like: The scan that the mask belongs to, from a DICOM series.
        path: Of the file.
        algorithm: What made the mask.
        keep_identity: Copy the patient's name, number, birth date and sex, and the study's date,
            time, number, accession number and physician. Without it they are empty; the UIDs of
            study, series, instances and frame of reference are kept either way.

    Raises:
        ScanError: The series has no study, series or frame of reference UID (kind
            `missing-attribute`), or its identity cannot be decoded (`dicom-damaged`).
        ValueError: Type or shape of the mask do not suit `like`, or `like` is not from DICOM.
        OSError: The file cannot be written.
    """
    if like.dicom is None or like.affine is None:
        raise ValueError(f"{like.path}: not from DICOM, expected a scan that read_series gives")
    if mask.dtype != np.bool_ or mask.shape != like.voxels.shape:
        raise ValueError(
            f"mask is {mask.dtype} {mask.shape}, expected bool {like.voxels.shape} as {like.path}"
        )
    import highdicom as hd

    stored = np.ascontiguousarray(to_stored(mask, like.stored_axes), dtype=np.uint8)
    with quiet_pydicom():
        references = source_references(like.dicom, path)
        content = hashlib.sha256(np.packbits(stored).data)
        uids = [
            content_uid(what, references, content.hexdigest(), algorithm, keep_identity)
            for what in ("series", "instance", "dimensions", "tracking")
        ]
        seg = hd.seg.Segmentation(
            source_images=_source_slices(like),
            pixel_array=stored,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(algorithm, uids[3])],
            series_instance_uid=uids[0],
            series_number=SERIES_NUMBER,
            sop_instance_uid=uids[1],
            instance_number=1,
            manufacturer="hemaseg",
            manufacturer_model_name="hemaseg",
            software_versions=version("hemaseg"),
            device_serial_number=algorithm.weights_sha256 or algorithm.version,
            content_label="HEMORRHAGE",
            content_description="Hemorrhage, segmented automatically; research use only",
            series_description="hemaseg segmentation, research use only",
            omit_empty_frames=False,
        )
        _claim_no_volume(seg, like, uids[2])
        _refer_to_sources(seg, like.dicom, references)
        if keep_identity:
            copy_identity(like.dicom, seg, path)
        with whole_file(path) as partial:
            partial.write_bytes(object_bytes(seg))


def _source_slices(like: Scan) -> list[Dataset]:
    """A single-frame data set for each stored slice, with all that a SEG takes from its source.

    They have the class of CT images and numbers for UIDs, because highdicom takes either such
    instances or one multi-frame object, and of classes that it knows; `_refer_to_sources` puts the
    references right. What describes the plane is that of the first slice, but for its position.
    """
    assert like.dicom is not None
    assert like.affine is not None
    index, number = like.dicom.frames[0]
    first = like.dicom.headers[index]
    shared = Dataset()
    shared.SOPClassUID = CTImageStorage
    shared.Modality = "CT"
    shared.Rows, shared.Columns = first.Rows, first.Columns
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(shared, keyword, first[keyword].value)
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "SliceThickness"):
        setattr(shared, keyword, frame_value(first, number, keyword))
    if first.get("LossyImageCompression") == "01":
        for keyword in _LOSSY:
            setattr(shared, keyword, first.get(keyword))
    if like.is_even:
        # Along the normal, as the standard defines it, which under gantry tilt is not the table's.
        voxel_mm3 = abs(np.linalg.det(like.affine[:3, :3]))
        shared.SpacingBetweenSlices = voxel_mm3 / float(np.prod(shared.PixelSpacing))
    blank_identity(shared)
    slices = []
    for k, (index, number) in enumerate(like.dicom.frames):
        one = Dataset()
        one.update(shared)
        one.SOPInstanceUID = str(k)
        one.ImagePositionPatient = frame_value(
            like.dicom.headers[index], number, "ImagePositionPatient"
        )
        slices.append(one)
    return slices


def _segment(algorithm: Algorithm, tracking_uid: str) -> "SegmentDescription":
    import highdicom as hd
    from pydicom.sr.codedict import codes

    weights = algorithm.weights_sha256
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Hemorrhage",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Hemorrhage,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            source="hemaseg",
            parameters={"weights_sha256": weights} if weights else None,
        ),
        tracking_uid=tracking_uid,
        tracking_id=TRACKING_ID,
        anatomic_regions=[codes.SCT.Brain],
        display_color=hd.color.CIELabColor.from_rgb(255, 0, 0),
    )


def _refer_to_sources(seg: "Segmentation", source: DicomSource, references: list[Dataset]) -> None:
    """Put references in place of the numbers of the slices, and each thickness of its own."""
    thicknesses = [
        frame_value(source.headers[index], number, "SliceThickness")
        for index, number in source.frames
    ]
    shared = seg.SharedFunctionalGroupsSequence[0]
    common = shared.PixelMeasuresSequence[0]
    is_uniform = len(set(thicknesses)) == 1
    if not is_uniform:
        del shared.PixelMeasuresSequence
    for groups in seg.PerFrameFunctionalGroupsSequence:
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        k = int(reference.ReferencedSOPInstanceUID)
        reference.update(references[k])
        if not is_uniform:
            measures = deepcopy(common)
            measures.SliceThickness = thicknesses[k]
            groups.PixelMeasuresSequence = [measures]
    instances = {item.ReferencedSOPInstanceUID: item for item in references}
    whole = []
    for item in instances.values():
        instance = Dataset()
        instance.ReferencedSOPClassUID = item.ReferencedSOPClassUID
        instance.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
        whole.append(instance)
    seg.SourceImageSequence = whole
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = whole


def _claim_no_volume(seg: "Segmentation", like: Scan, dimensions_uid: str) -> None:
    """Take back what highdicom concludes from positions that are even and straight within 1 %.

    A tilted or uneven stack is no "3D" organization, and an uneven one has no spacing.
    """
    seg.pop("DimensionOrganizationType", None)
    if not like.is_even:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.pop("SpacingBetweenSlices", None)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions_uid
