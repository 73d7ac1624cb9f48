"""What was measured in a mask as a DICOM structured report (TID 1500) beside its SEG."""

import math
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from hemaseg.dicom.attributes import quiet_pydicom
from hemaseg.dicom.objects import object_bytes
from hemaseg.dicom.references import blank_identity, content_uid, copy_identity, source_references
from hemaseg.dicom.seg import TRACKING_ID, Algorithm
from hemaseg.files import whole_file
from hemaseg.metrics.measurement import Measurement
from hemaseg.scans.scan import Scan

if TYPE_CHECKING:
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

SERIES_NUMBER = 9002
SCHEME = "99HEMASEG"
"""Designator of our own codes, for what no standard scheme has a code."""


def write_sr(
    measurement: Measurement,
    like: Scan,
    seg_path: Path,
    path: Path,
    *,
    algorithm: Algorithm,
    keep_identity: bool = False,
) -> None:
    """Write what was measured in a mask as a DICOM structured report (Comprehensive 3D, TID 1500).

    One volumetric measurement group (TID 1411) refers to the segment and to the source series. It
    has the volume (SNOMED CT 118565006, by the sum of voxels) and, of the largest lesion, ABC/2 and
    the longest axis in codes of our own, because the standard's codes say other things: ABC/2 is
    not the volume of an ellipsoid, and the axis is that of voxels, not of a mesh. What is undefined
    is left out; an empty mask has a volume of 0 mL. The report is unverified and preliminary, and
    says that it is for research only. The file appears complete or not at all. UIDs as in
    `write_seg`.

    Args:
        measurement: Of the mask in the SEG.
        like: The scan that the mask belongs to, from a DICOM series.
        seg_path: The SEG, as `write_seg` wrote it.
        path: Of the report.
        algorithm: What made the mask.
        keep_identity: As in `write_seg`.

    Raises:
        ScanError: As `write_seg`.
        ValueError: `like` is not from DICOM, the SEG belongs to another study, or the volume is
            undefined.
        OSError: A file cannot be read or written.
    """
    if like.dicom is None:
        raise ValueError(f"{like.path}: not from DICOM, expected a scan that read_series gives")
    if math.isnan(measurement.volume_ml):
        raise ValueError("volume_ml is NaN, expected a measurement with geometry")
    from highdicom import sr

    with quiet_pydicom():
        references = source_references(like.dicom, path)
        seg = dcmread(seg_path, stop_before_pixels=True)
        header = like.dicom.headers[0]
        study = header.StudyInstanceUID
        if (seg.get("SOPClassUID"), seg.get("StudyInstanceUID")) != (SegmentationStorage, study):
            raise ValueError(f"{seg_path}: not a SEG of the study of {like.path}")
        content = repr((str(seg.SOPInstanceUID), _numbers(measurement)))
        uids = [
            content_uid(what, references, content, algorithm, keep_identity)
            for what in ("report series", "report")
        ]
        report = sr.Comprehensive3DSR(
            evidence=_evidence(seg, header, references),
            content=_content(measurement, like, seg, algorithm)[0],
            series_instance_uid=uids[0],
            series_number=SERIES_NUMBER,
            sop_instance_uid=uids[1],
            instance_number=1,
            manufacturer="hemaseg",
            manufacturer_model_name="hemaseg",
            software_versions=version("hemaseg"),
            series_description="hemaseg measurements, research use only",
            is_complete=True,
            coding_schemes=[_own_scheme()],
        )
        if keep_identity:
            copy_identity(like.dicom, report, path)
        with whole_file(path) as partial:
            partial.write_bytes(object_bytes(report))


def _numbers(measurement: Measurement) -> tuple[float, float, float]:
    """Volume in mL, ABC/2 in mL, longest axis in mm, as the tables have them: 7 digits."""
    values = (measurement.volume_ml, measurement.abc2_ml, measurement.longest_axis_mm)
    volume_ml, abc2_ml, longest_axis_mm = (float(f"{value:.7g}") for value in values)
    return volume_ml, abc2_ml, longest_axis_mm


def _evidence(seg: Dataset, header: Dataset, references: list[Dataset]) -> list[Dataset]:
    """The SEG and the instances of the series, with what a report takes from them."""
    instances = {item.ReferencedSOPInstanceUID: item.ReferencedSOPClassUID for item in references}
    evidence = []
    for uid, sop_class, series in (
        (seg.SOPInstanceUID, seg.SOPClassUID, seg.SeriesInstanceUID),
        *((uid, sop_class, header.SeriesInstanceUID) for uid, sop_class in instances.items()),
    ):
        item = Dataset()
        item.SOPInstanceUID, item.SOPClassUID, item.SeriesInstanceUID = uid, sop_class, series
        item.StudyInstanceUID = header.StudyInstanceUID
        evidence.append(item)
    # The report takes patient and study from the first.
    blank_identity(evidence[0])
    return evidence


def _content(
    measurement: Measurement, like: Scan, seg: Dataset, algorithm: Algorithm
) -> "sr.MeasurementReport":
    from highdicom import sr
    from pydicom.sr.codedict import codes

    procedures = {"CT": codes.LN.CTUnspecifiedBodyRegion, "MRI": codes.LN.MRIUnspecifiedBodyRegion}
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=content_uid("device", [], repr(algorithm)),
        name="hemaseg",
        manufacturer_name="hemaseg",
        model_name=algorithm.name,
        serial_number=algorithm.weights_sha256 or algorithm.version,
    )
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=seg.SegmentSequence[0].TrackingUID, identifier=TRACKING_ID
        ),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=1,
            source_series=sr.SourceSeriesForSegmentation(
                seg.ReferencedSeriesSequence[0].SeriesInstanceUID
            ),
        ),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Hemorrhage,
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        algorithm_id=sr.AlgorithmIdentification(
            name=algorithm.name, version=algorithm.version, family=codes.DCM.ArtificialIntelligence
        ),
        measurements=_measurements(measurement),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=_own_code("use", "Permitted use"),
                value=_own_code("research-only", "Research use only; not for clinical use"),
            )
        ],
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=procedures.get(like.modality, codes.SCT.ImagingProcedure),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _measurements(measurement: Measurement) -> list["sr.Measurement"]:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    volume_ml, abc2_ml, longest_axis_mm = _numbers(measurement)
    milliliter = sr.CodedConcept("mL", "UCUM", "milliliter")
    found = [
        sr.Measurement(
            name=codes.SCT.Volume,
            value=volume_ml,
            unit=milliliter,
            method=codes.DCM.SumOfSegmentedVoxelMethodForVolume,
        )
    ]
    for code, meaning, value, unit in (
        ("abc2", "ABC/2 of the largest lesion", abc2_ml, milliliter),
        (
            "longest-axis",
            "Longest axis of the largest lesion",
            longest_axis_mm,
            codes.UCUM.Millimeter,
        ),
    ):
        if not math.isnan(value):
            found.append(sr.Measurement(name=_own_code(code, meaning), value=value, unit=unit))
    return found


def _own_code(value: str, meaning: str) -> "sr.CodedConcept":
    from highdicom import sr

    return sr.CodedConcept(value, SCHEME, meaning)


def _own_scheme() -> "CodingSchemeIdentificationItem":
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return CodingSchemeIdentificationItem(
        SCHEME, name="hemaseg", responsible_organization="The hemaseg developers"
    )
