"""Mask files of any tool to tables of scores. Never imports torch."""
