"""hemaseg: train, compare and apply U-Nets that segment intracerebral hematomas. Research use only.

Data flow one way, and the packages are named after the steps (`docs/architecture.md`). Import from
the modules themselves, for example `from hemaseg.metrics.overlap import dice`.
"""
