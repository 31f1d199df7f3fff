"""What training teaches: quality after each stage, and one change at a time."""
