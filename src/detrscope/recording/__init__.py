"""Snapshots of probe images while a model trains, for the films of `timelapse`."""
