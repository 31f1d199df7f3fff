"""Consistency filtering: which pairs are kept, and what a person can read about it."""
