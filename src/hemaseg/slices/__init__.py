"""Cases to (image, mask) slices of one size, the only form that a network sees."""
