"""Datasets, the one image reader, transforms, loaders."""
