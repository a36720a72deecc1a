"""The errors a user can meet: each is a ValueError whose message says the rule, the value and the remedy."""

__all__ = ["CheckpointError", "NonFiniteError", "RunError", "ShapeError", "UnsupportedModelError"]


class ShapeError(ValueError):
    """A size or a shape that cannot be right: k = 0, a batch that does not fit the network."""


class UnsupportedModelError(ValueError):
    """A model or guide that the engine cannot treat exactly, and would otherwise treat wrongly."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this run: truncated, foreign, or of another model."""


class RunError(ValueError):
    """A run directory or an option that cannot be used as asked."""


class NonFiniteError(ValueError):
    """A loss that is NaN or infinite; the message names the step, the site and the last good checkpoint."""
