"""Both sides measured in one run; every script prints its ratios and the command that made them."""
