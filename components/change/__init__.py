"""Change: decide whether a scheduled training would make anything new."""
