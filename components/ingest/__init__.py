"""Ingest: bring one exact version of a dataset in as files with a manifest."""
