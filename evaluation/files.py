"""Names of files beside results."""

PROTOCOL_FILE = "protocol.json"  # beside results of mteb: how the model was asked
