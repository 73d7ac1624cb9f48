"""What a series' description says of the scan: words of radiology, and nothing else.

A description is free text. It tells a plain CT from an angiography, which a user must see to
choose; but people write names and birth dates into it that stand nowhere else in the header, so
that nothing could tell that they identify. Only words of the list below are shown.
"""

import re

_WORDS = frozenset(
    """
    head brain skull cranium cranial cranio cerebrum cerebral neck cervical spine sinus orbit face
    schaedel sch\u00e4del kopf hirn gehirn crane cr\u00e2ne tete t\u00eate cerveau cabeza craneo
    cr\u00e1neo cerebro testa encefalo hersenen hoofd
    ct mr mri cta ctv ctp mra mrv angio angiography angiographie perfusion venography stroke trauma
    ax axial axi cor coronal sag sagittal obl oblique tra transversal mpr mip minip vrt 2d 3d fl2d
    fl3d vol volume helical spiral seq sequence sequential incremental recon reformat reformatted
    bone soft tissue brainkernel kernel std standard sharp smooth detail edge window
    knochen weichteil os hueso blando osso
    thin thick slice slices d\u00fcnn duenn dick fin
    plain native nativ nc non noncontrast contrast unenhanced enhanced without with wo w pre post km
    gad gd sans avec injection con sin contraste
    t1 t1w t2 t2w t2star pd pdw flair swi gre ffe ffs dwi adc trace b0 b1000 epi se tse fse tof ir
    stir mprage bravo space cube vista propeller blade haste fs fatsat dark fluid hemo heme
    localizer localiser scout topogram topo survey surview dose report protocol screenshot derived
    original primary synthetic phantom series
    """.split()  # noqa: SIM905 (a list of literals would be one word to a line)
)
_TOKEN = re.compile(
    r"""
    (?P<known>
        w/o\b                                                # or it would read as "with"
        | (?<![\w.,])\d{1,2}([.,]\d{1,3})?\s?mm\b             # 5 mm
        | (?<![\w.,])\d[.,]\d{1,3}(?![\w.,]|\s*\d)            # 0.625
    )
    | [^\W_]+\*?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def known_words(description: str) -> str:
    """A description with `[...]` in place of what is neither a word of radiology nor a thickness.

    >>> known_words("CT Head w/o 5 mm bone, Mrs Doe 12.03.1941")
    'CT Head w/o 5 mm bone [...]'
    """
    found: list[str] = []
    for match in _TOKEN.finditer(description):
        token = match[0]
        is_known = match["known"] or token.rstrip("*").casefold() in _WORDS
        shown = token if is_known else "[...]"
        if shown != "[...]" or found[-1:] != ["[...]"]:
            found.append(shown)
    return " ".join(found)
