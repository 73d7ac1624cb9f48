"""Where the predicted mask of an image lies; imports no torch, so scoring can use it.

    FOLDER/SUBJECT/IMAGE_FILE_NAME

with the suffix of a picture replaced by `.png` and that of a NIfTI file by `.nii.gz`.
"""

from collections.abc import Iterable
from pathlib import Path

from hemaseg.cohorts.table import CaseImage
from hemaseg.errors import CohortError
from hemaseg.scans.images import stem
from hemaseg.scans.nifti import is_nifti


def prediction_path(folder: Path, image: CaseImage) -> Path:
    """File of the predicted mask of one image.

    Args:
        folder: Folder that holds the predictions of a run.
        image: One row of a cohort, whose subject can be the name of a folder.

    Example: `predictions/0007/0007_12.png` for the image `images/0007_12.jpg` of subject `0007`.
    """
    suffix = ".nii.gz" if is_nifti(image.image) else ".png"
    return folder / image.subject / f"{stem(image.image)}{suffix}"


def prediction_paths(folder: Path, images: Iterable[CaseImage]) -> tuple[Path, ...]:
    """Files of the predicted masks of several images, in their order, no file twice.

    Args:
        folder: Folder that holds the predictions of a run.
        images: Rows of a cohort.

    Raises:
        CohortError: Two images of one subject would share a file (names that differ only in case
            count as one, since some file systems hold them to be).
    """
    owners: dict[str, Path] = {}
    paths = []
    for image in images:
        path = prediction_path(folder, image)
        key = str(path).casefold()
        if key in owners:
            raise CohortError(
                f"{image.image}: its prediction would be {path}, which is also that of "
                f"{owners[key]}; expected one file per image; give the images of subject "
                f"{image.subject} different file names"
            )
        owners[key] = image.image
        paths.append(path)
    return tuple(paths)
