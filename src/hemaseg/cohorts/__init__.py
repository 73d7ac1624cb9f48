"""The table of cases: made from folders, checked, and split by subject."""
