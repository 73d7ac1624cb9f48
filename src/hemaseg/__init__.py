"""hemaseg: train, compare and apply U-Nets that segment intracerebral hematomas. Research use only.

Data flow one way, and the packages are named after the steps:

    scans -> dicom -> intake -> phantoms -> cohorts -> slices -> metrics -> models -> training
          -> weights -> prediction -> evaluation -> statistics -> comparison -> studies -> reporting
          -> demo -> cli

Import from the modules themselves, for example `from hemaseg.metrics.overlap import dice`.
"""
