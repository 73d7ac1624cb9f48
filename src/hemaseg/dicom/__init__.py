"""DICOM series to a `Scan` with exact geometry, and masks back as DICOM segmentations."""
