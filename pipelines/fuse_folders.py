"""Fuse two folders of images, those of the same name with each other."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from components.ingest.layout import order
from model.errors import InputError
from model.fuser import Fuser
from model.images import EXTENSIONS, Picture, write_image
from model.new_folder import check_new_folder, new_folder
from model.picture_pairs import fused_picture
from pipelines.fuse import read_pictures

_AHEAD = 4  # pairs that are read, and fused ones that are still being written


def are_folders(a: Path, b: Path) -> bool:
    """Whether one of two sources is a folder, so that both must be."""
    return a.is_dir() or b.is_dir()


def images_of_same_names(a: Path, b: Path) -> tuple[list[tuple[Path, Path]], int]:
    """The images of the same name in two folders, by name, and how many have no partner.

    Raises InputError if one is no folder or has a name twice, or no names are the same.
    """
    found = []
    for folder in (a, b):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder, the other one is; give two images or two folders")
        images: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
                if path.stem in images:
                    raise InputError(f"{folder} has {path.stem} twice; keep one of the two files")
                images[path.stem] = path
        found.append(images)
    both = sorted(found[0].keys() & found[1].keys(), key=order)
    if not both:
        raise InputError(
            f"no image in {a} has one of the same name in {b}; name pairs alike, as CT/1.png and MRI/1.png"
        )
    return [(found[0][name], found[1][name]) for name in both], len(found[0].keys() ^ found[1].keys())


def fuse_folders(
    a: Path, b: Path, output: Path, load: Callable[[], Fuser], progress: Callable[[int, int], None]
) -> tuple[int, int]:
    """Fuse the pairs of two folders into the new folder `output`, as PNG files; how many, and images without partner.

    Each is fused as `fuse_files` does it, while others are read and written. `load` gives the Fuser, asked only once
    the folders are fit. `output` appears whole or not at all. Raises InputError for anything the user can mend.
    """
    check_new_folder(output)
    pairs, alone = images_of_same_names(a, b)
    if output.suffix.lower() in EXTENSIONS:
        raise InputError(f"{output} is to be a folder, as the sources are; name it without {output.suffix}")
    fuser = load()
    with new_folder(output) as aside, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing: deque[Future[None]] = deque()
        for done, (name, pictures) in enumerate(_read_ahead(pairs, reader), start=1):
            writing.append(writer.submit(write_image, aside / f"{name}.png", _fused(fuser, *pictures)))
            if len(writing) > _AHEAD:
                writing.popleft().result()
            progress(done, len(pairs))
        for written in writing:
            written.result()
    return len(pairs), alone


def _read_ahead(
    pairs: Sequence[tuple[Path, Path]], reader: ThreadPoolExecutor
) -> Iterator[tuple[str, tuple[Picture, Picture]]]:
    reading: deque[tuple[str, Future[tuple[Picture, Picture]]]] = deque()
    try:
        for a, b in pairs:
            reading.append((a.stem, reader.submit(read_pictures, a, b)))
            if len(reading) > _AHEAD:
                name, read = reading.popleft()
                yield name, read.result()
        while reading:
            name, read = reading.popleft()
            yield name, read.result()
    finally:
        for _, read in reading:
            read.cancel()


def _fused(fuser: Fuser, a: Picture, b: Picture) -> Picture:
    luma = fuser.fuse(a.luma[None], b.luma[None])[0].cpu()
    if not torch.isfinite(luma).all():
        raise InputError("the model gives values that are not finite, so its weights are useless; name another --model")
    return fused_picture(luma, a, b)
