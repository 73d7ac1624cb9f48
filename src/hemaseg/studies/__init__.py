"""Several arms on the same folds and seeds: planned, run as far as runs are missing, compared."""
