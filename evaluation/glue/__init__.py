"""GLUE: fine-tuning on eight tasks as in the paper's §5.1, and reading of the results."""
