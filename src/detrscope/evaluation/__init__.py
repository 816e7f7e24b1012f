"""Evaluation: COCO AP, predictions over a dataset, reports."""
