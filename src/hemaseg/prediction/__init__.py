"""A trained run and a cohort to masks on each image's own grid."""
