"""The epoch loop and its checkpoints."""
