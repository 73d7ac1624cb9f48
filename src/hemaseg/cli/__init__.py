"""The command line: one function per verb, which reads arguments, calls the library and prints.

Nothing heavy is imported at the top, so that `--help` answers at once. Errors go to standard error
as one message with exit status 2, an interruption gives 130; a traceback is a bug.
"""

from hemaseg.cli import phantoms, cohorts, training, scans, comparing, engines  # isort: skip  (the order in the help)
from hemaseg.cli.program import app, main

__all__ = ["app", "cohorts", "comparing", "engines", "main", "phantoms", "scans", "training"]
