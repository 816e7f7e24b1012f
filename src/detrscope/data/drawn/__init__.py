"""Drawn dogs: the built-in dataset. Cartoon scenes with boxes and part masks, from a seed alone."""
