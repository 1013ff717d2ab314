"""Validate: judge the ingested pairs by Great Expectations, with Data Docs that name the files at fault."""
