"""The container image that every step runs in, unless the pipeline is compiled or submitted with another one."""

import os

IMAGE = "atlas-fusion:0.1.0"
IMAGE_VARIABLE = "ATLAS_FUSION_IMAGE"
"""What tells a step in a container the name of its image, by digest where the pipeline named it so."""


def own_image() -> str:
    """The name of the image that this process runs in; "" outside of one."""
    return os.environ.get(IMAGE_VARIABLE, "")
