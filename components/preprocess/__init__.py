"""Preprocess: split validated pairs by subject and pack them into arrays that training maps into memory."""
