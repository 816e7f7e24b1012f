"""Run a model: the `Detector`, tracing, images and videos as input."""
