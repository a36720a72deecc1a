"""The `ppl` command: parse words, call the toolkit, print. The only place that maps names to classes."""

from inference.cli.app import main

__all__ = ["main"]
