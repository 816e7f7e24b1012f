"""The functions behind the commands, each also a function of the Python interface."""
