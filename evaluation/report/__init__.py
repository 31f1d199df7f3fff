"""Results beside the numbers of the paper: a page, the same as JSON, and plots."""
