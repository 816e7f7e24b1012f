"""Attention maps and metrics of a trace; no model, no drawing."""
