"""Scores of embedders on retrieval sets, and the plots that show them."""
