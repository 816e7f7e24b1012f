"""Datasets: readers, checks, transforms, loaders, and the one image reader."""
