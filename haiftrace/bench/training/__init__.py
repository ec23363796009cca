"""The models of the benches: made, trained, evaluated."""
