"""Arrays in, numbers out: tests, intervals and sample sizes, with nothing of our field in them."""
