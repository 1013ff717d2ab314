"""Batch: every pair of a source fused and measured by one model version, beside a summary of all of it."""
