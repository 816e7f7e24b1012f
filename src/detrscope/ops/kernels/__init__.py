"""CPU and GPU kernels, and benchmarks of this machine's data types."""
