"""One image or mask file to a `Scan` with its geometry, screened, and back."""
