"""The text that the quickstart trains on: documentation strings of installed Python packages."""
