"""One image or mask file to a `Scan` and back, and synthetic heads with known lesion volumes."""
