"""Full gradients along the checkpoints of a training run: TracInCP and ATTIF."""
