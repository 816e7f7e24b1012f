"""Training: matching, loss, optimiser, training loop and run folder."""
