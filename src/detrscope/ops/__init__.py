"""Functions without parameters; the two doors."""
