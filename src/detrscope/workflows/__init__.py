"""The public functions behind the commands; they see both sides of the house."""
