"""What is measured and how: `python -m benchmarks [NAME ...] [--quick]`, one file per benchmark; README.md explains."""
