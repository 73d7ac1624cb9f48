"""Every error that hemaseg raises on purpose.

    HemasegError
    |-- ConfigError        a configuration file or option
    |-- ScanError          an image or mask file, or its geometry
    |-- CohortError        a folder or table of cases
    |-- SplitError         a split into training, validation and test
    |-- CheckpointError    a run folder or its weights
    |-- EngineError        a network that an engine cannot run
    |-- ClusterError       workers on other machines
    |-- TrainingError      a run that cannot start or go on
    |-- EvaluationError    masks that cannot be scored
    `-- ComparisonError    scores that cannot be compared

A message has three parts: which thing, what was found against what was expected, what to do.
The command line prints it to standard error and exits with status 2; a traceback is a bug.
Wrong calls of the Python API raise `ValueError` or `TypeError` instead.
"""


class HemasegError(Exception):
    """Base of all errors below; catch this to catch whatever a user's input can cause."""


class ConfigError(HemasegError):
    """A configuration file or option is wrong."""


class ScanError(HemasegError):
    """An image or mask file cannot be read, or its geometry cannot be used.

    Attributes:
        kind: What is wrong, in one word: a key of `hemaseg.scans.screening.KINDS`.
    """

    def __init__(self, message: str, *, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class CohortError(HemasegError):
    """A folder or table of cases is not what it should be."""


class SplitError(HemasegError):
    """A split is impossible, leaks, or belongs to another cohort."""


class CheckpointError(HemasegError):
    """A run folder is incomplete, damaged or of another kind."""


class EngineError(HemasegError):
    """An engine is not installed, or cannot run this network on this device."""


class ClusterError(HemasegError):
    """A cluster cannot be reached, or its workers cannot do the work."""


class TrainingError(HemasegError):
    """Training cannot start or cannot go on."""


class EvaluationError(HemasegError):
    """Predictions and references cannot be scored against each other."""


class ComparisonError(HemasegError):
    """Score tables cannot be compared."""
