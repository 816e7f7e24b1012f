"""Evaluations that need both a model and an explanation: faithfulness curves, sanity checks."""
