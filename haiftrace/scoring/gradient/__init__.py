"""Full gradients of one checkpoint: exact scores, the norms and preconditioners that they take."""
