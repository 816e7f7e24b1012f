"""Modules named after their place in the path."""
