"""From files and names to models: our checkpoints, third-party files, downloads."""
