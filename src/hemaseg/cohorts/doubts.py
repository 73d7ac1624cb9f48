"""What is not wrong in a cohort, but deserves a second look: it is said once, after indexing."""

import re
from collections import defaultdict
from collections.abc import Iterable

from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.scans.mask_size import oversize

_MAX_SHOWN = 3
# What comes before the last word or number of a name, or before a date such as 2020-01-31.
_BEGINNING = re.compile(r"(.+?)[-_]((19|20)[0-9]{2}[-_]?[0-9]{2}[-_]?[0-9]{2}|[^-_]+)")


def shared_beginnings(subjects: Iterable[tuple[str, str]]) -> str:
    """Subjects who may be time points of one person, in a sentence; empty if none may.

    They are those whose names are equal up to the last `_` or `-`, as `p1_baseline` and
    `p1_day3`, if there are several such beginnings, and more beginnings than names of any one of
    them: few beginnings with many names each are those of sites (`A_001`, `B_001`) or of the
    study (`ICH_001`). Beginnings that end in the name of a site are left aside too.

    Args:
        subjects: Name and site of each, the site empty if unknown.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for subject, site in dict.fromkeys(subjects):
        match = _BEGINNING.fullmatch(subject)
        if match and not (site and match[1].endswith(site)):
            groups[match[1]].append(subject)
    several = [names for names in groups.values() if len(names) > 1]
    if len(several) < 2 or max(map(len, several)) >= len(groups):
        return ""
    return (
        f"{sum(map(len, several))} subjects share the beginning of their names with others "
        f"({_some([', '.join(names) for names in several])}). If these are one person each, name "
        "the person by --subject-pattern (in a CSV file: the column subject): they now count as "
        "several, and a split between them would leak."
    )


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
