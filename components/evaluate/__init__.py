"""Evaluate: the network and every baseline on the held-out subjects, as a table and a report."""
