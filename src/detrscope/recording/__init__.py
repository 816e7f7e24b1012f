"""Snapshots of probe images while a model trains; `timelapse` films are made of them."""
