"""A model small enough to be timed in a test."""

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
# Weights large enough that attention and positions decide about logits and loss.
LIVELY = {**SIZE, "initializer_range": 0.3}
