"""Load tests and paired benchmarks of the gateway."""
