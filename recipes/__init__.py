"""One script for each step that a person runs; the numbers are in `configs/`."""
