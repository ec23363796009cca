"""Agreement with leave-one-out retraining (Table 1)."""
