"""What is optimised, what is stored, and the one loop that trains every model."""
