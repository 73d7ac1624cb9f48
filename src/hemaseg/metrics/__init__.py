"""Arrays in, numbers out: everything that is reported. Never imports torch."""
