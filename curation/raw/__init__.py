"""Pairs made of raw data sets by rules that a config holds."""
