"""How fast networks run here, against the machine's limits and other ways to run them."""
