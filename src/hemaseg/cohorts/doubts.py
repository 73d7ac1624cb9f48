"""What is not wrong in a cohort, but deserves a second look: it is said once, after indexing."""

from collections import defaultdict

from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.scans.mask_size import oversize

_MAX_SHOWN = 3


def large_masks(cohort: Cohort) -> str:
    """The scans of which more is marked than a lesion can be, in a sentence; empty if none is.

    The slices of a stack count together: a single picture may be cropped around its lesion.
    """
    scans: defaultdict[tuple[str, str], list[CaseImage]] = defaultdict(list)
    for image in cohort.images:
        if image.is_marked:
            scans[image.subject, image.scan].append(image)
    found = [
        f"{subject}/{scan}: {' and '.join(reasons)}"
        for (subject, scan), images in scans.items()
        if (
            reasons := oversize(
                sum(image.lesion_pixels or 0 for image in images),
                sum(image.num_slices * image.num_rows * image.num_columns for image in images),
                sum(image.lesion_ml for image in images),
            )
        )
    ]
    if not found:
        return ""
    return (
        f"Of {len(found)} scans more is marked than lesions usually are ({_some(found)}). "
        "Look whether these masks are inverted, or of the head."
    )


def _some(items: list[str]) -> str:
    return "; ".join(items[:_MAX_SHOWN]) + "; ..." * (len(items) > _MAX_SHOWN)
