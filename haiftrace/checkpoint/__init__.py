"""A checkpoint directory: model, tokenizer, fingerprints and training run."""
