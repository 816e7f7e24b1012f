"""Parameter names of published checkpoints, as tables of renames."""
