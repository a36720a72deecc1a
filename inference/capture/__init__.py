"""A Pyro program recorded once as a pure function of tensors: for torch.compile, and for JAX."""

from inference.capture.record import Recorded, record

__all__ = ["Recorded", "record"]
