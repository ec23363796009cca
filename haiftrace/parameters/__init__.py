"""Which parameters gradients are over."""
