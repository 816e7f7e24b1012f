"""The painter of the built-in dataset: cartoon scenes of dogs with boxes and part masks, from a seed alone."""
