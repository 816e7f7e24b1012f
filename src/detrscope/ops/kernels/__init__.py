"""The engine room: kernels for CPUs and GPUs, and what this machine computes fast."""
