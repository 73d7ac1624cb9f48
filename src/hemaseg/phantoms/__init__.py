"""Synthetic heads with blood of known volume, from an atlas, as CT and MRI."""
