"""`haiftrace bench speed`: what the engine and the commands cost, beside peers and the hardware."""
