"""What sources of pairs hold, counted and shown, before anything is trained on them."""
