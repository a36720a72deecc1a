"""Log-evidence: what a model says of data."""
