"""The container image that every pipeline component runs in."""

IMAGE = "atlas-fusion:0.1.0"
