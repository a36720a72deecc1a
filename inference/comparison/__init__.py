"""Reports, figures and diagnostics."""
