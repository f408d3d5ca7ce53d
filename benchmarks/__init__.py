"""What is fast, measured beside the alternative in one run: ``python -m benchmarks.dump``."""
