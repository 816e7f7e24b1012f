"""The built-in dataset: cartoon scenes of dogs with boxes and part masks, drawn from a seed."""
