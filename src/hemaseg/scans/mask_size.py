"""Whether a mask marks more than a lesion can be: one that is inverted, or of the brain or head.

One sign alone is a note, since masks may be cropped closely and lesions large. Both together are no
lesion: half of a grid that is larger than two lesions of the limit.
"""

MAX_SHARE = 0.5
"""Of the voxels. An ellipsoid fills 0.52 of the box around it; a head, about half of its scan."""

MAX_LESION_ML = 500.0
"""A third of a brain. Ours; hematomas beyond 200 mL are rare."""


def oversize(num_marked: int, num_voxels: int, volume_ml: float) -> tuple[str, ...]:
    """What is marked too much: none, one or two reasons.

    Args:
        num_marked: Voxels in the mask.
        num_voxels: In all.
        volume_ml: Of the mask; NaN if unknown, which is no reason.

    >>> oversize(6, 10, 700.0)
    ('60 % of the voxels', '700 mL')
    >>> oversize(5, 10, float("nan"))
    ()
    """
    reasons = []
    if num_marked > MAX_SHARE * num_voxels:
        reasons.append(f"{100 * num_marked / num_voxels:.0f} % of the voxels")
    if volume_ml > MAX_LESION_ML:
        reasons.append(f"{volume_ml:,.0f} mL")
    return tuple(reasons)
