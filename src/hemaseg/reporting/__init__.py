"""Tables to figures and one self-contained HTML page; computes no statistics."""
