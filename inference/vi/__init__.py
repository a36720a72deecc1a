"""Variational inference: bounds, and the step that climbs them."""
