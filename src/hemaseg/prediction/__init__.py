"""A trained network and scans, or a cohort, to masks on each image's own grid."""
