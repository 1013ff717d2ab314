"""Notify: tell people how a run of the pipeline ended."""
