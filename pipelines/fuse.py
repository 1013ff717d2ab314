"""Fuse two image files with the shipped model, or one from a folder, a weights file or the registry."""

import os
import stat
from pathlib import Path

import torch

import model
from model.errors import InputError
from model.fuser import CONFIG_FILE, WEIGHTS_FILE, Fuser, FuserConfig
from model.images import Picture, read_image, same_file, writable_format, write_image
from model.network import Autoencoder
from model.networks import NETWORKS
from model.picture_pairs import check_pictures, fused_picture
from model.published import is_published, load_tensors, read_published, read_shapes

SHIPPED_MODEL = Path(model.__file__).parent / "weights" / "dilran-subject"


def fuse_files(
    a: Path, b: Path, output: Path, model: str | None, strategy: str | None, batchnorm: str | None, runs: Path
) -> None:
    """Fuse images `a` and `b` and write the result to `output`; raises InputError for anything the user can mend.

    If one of them is in colour, its luma is fused and its chroma put back: the result is 8-bit RGB. Of grey images the
    result has 16 bits if either source has. An `output` that is one of the sources is refused.
    """
    pictures = read_pictures(a, b)
    writable_format(output, fused_picture(pictures[0].luma, *pictures))
    for source in (a, b):
        if same_file(output, source):
            raise InputError(f"{output} is one of the sources, which the fused image would replace; name another file")
    fuser = load_fuser(model_path(model, runs), strategy, batchnorm)
    luma = fuser.fuse(*(picture.luma[None] for picture in pictures))[0]
    if not torch.isfinite(luma).all():
        raise InputError("the model gives values that are not finite, so its weights are useless; name another --model")
    write_image(output, fused_picture(luma, *pictures))


def read_pictures(a: Path, b: Path) -> tuple[Picture, Picture]:
    """Two images that are fit to be fused: of one size, not both in colour; raises InputError otherwise."""
    pictures = read_image(a), read_image(b)
    check_pictures(*pictures, (a, b))
    return pictures


def load_fuser(source: Path, strategy: str | None = None, batchnorm: str | None = None) -> Fuser:
    """The Fuser of a model folder or of one safetensors file, ours or the authors' published one.

    A `weights.safetensors` with its `config.json` beside it is its folder's model. The network of any other file is
    known by its tensors, and fuses as it was published unless told otherwise: by its own strategy, BatchNorm by the
    statistics of each image. Raises InputError if it is none of these.
    """
    try:
        if stat.S_ISDIR(source.stat().st_mode):
            return Fuser.load(source, strategy, batchnorm)
        if source.name == WEIGHTS_FILE and (source.parent / CONFIG_FILE).is_file():
            return Fuser.load(source.parent, strategy, batchnorm)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"no model at {source} ({reason}); name a model folder, a safetensors file or models:/NAME/VERSION"
        ) from None
    network = _read_network(source)
    name = next(name for name, kind in NETWORKS.items() if type(network) is kind)
    return Fuser(network, FuserConfig(strategy or network.strategy, batchnorm or "image", name))


def _read_network(path: Path) -> Autoencoder:
    shapes = read_shapes(path)
    if is_published(shapes):
        return read_published(path)
    for kind in NETWORKS.values():
        network = kind()
        if shapes == {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}:
            load_tensors(network, path, {name: name for name in shapes})
            return network
    raise InputError(f"{path} holds the weights of another architecture; give one of {', '.join(NETWORKS)}")


def check_model_name(model: str | None) -> None:
    """Raise InputError for an empty name, as of a shell's variable that is not set; None is the shipped model."""
    if model is not None and not model.strip():
        raise InputError(
            "the model's name is empty; name a model folder or models:/NAME/VERSION, or none for the one that ships"
        )


def model_path(model: str | None, runs: Path) -> Path:
    """The place of the model that `--model` names, the shipped one by default; a registered one is fetched."""
    check_model_name(model)
    if model is None:
        if not SHIPPED_MODEL.is_dir():
            raise InputError(
                f"no model ships with this program ({SHIPPED_MODEL} is missing); name one with --model, "
                "for instance runs/latest/model, which `fusion run` makes"
            )
        return SHIPPED_MODEL
    if not model.startswith("models:"):
        return Path(model)
    from components.register.fetch import resolve_model
    from pipelines.local import registry_uri

    uri = registry_uri(runs)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "atlas-fusion" / "models"
    return resolve_model(model, cache, uri)
