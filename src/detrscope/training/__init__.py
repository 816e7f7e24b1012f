"""Learning: matching, loss, optimiser, the loop, and the folder a run leaves behind."""
