"""An audit: probes, what is said to them, and the gate that lets a checkpoint pass."""
