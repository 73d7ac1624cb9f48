"""Whatever the user names to scans with names that identify nobody, read and screened."""
