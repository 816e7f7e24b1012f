"""Stateless operators, including the two attention functions that record and edit attention."""
