"""A page to look with: sources, fused images and weights of a few pairs, side by side, as one self-contained page."""
