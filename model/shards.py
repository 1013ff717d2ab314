"""Arrays in several .npy files: written row by row in constant memory, read by memory map as if they were one."""

import hashlib
import io
import operator
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from model.errors import InputError

ROWS_A_SHARD = 2048
OPEN_SHARDS = 64
_CHUNK = 1 << 20

Pixels = npt.NDArray[np.uint8]
Shard = dict[str, Any]
"""What an index says of one shard: its "file", its "rows" and the "md5" of the whole file."""


class Shards:
    """A read-only uint8 array, memory-mapped, whose first axis runs over the rows of several .npy files.

    It is indexed as an array is: by a number, a slice or numbers along the first axis, and by anything along the
    others. A file is opened when a row of it is asked for, and at most `OPEN_SHARDS` stay open.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], row: tuple[int, ...]) -> None:
        """The shards of `folder` in their order, each row of shape `row`.

        Raises InputError, naming the shard, if one is missing, cut short or of another shape than the index says.
        """
        self._paths = [folder / shard["file"] for shard in shards]
        self._starts = [0, *accumulate(int(shard["rows"]) for shard in shards)]
        self._md5s = [shard.get("md5", "") for shard in shards]
        self._open: OrderedDict[int, Pixels] = OrderedDict()
        self.shape = (self._starts[-1], *row)
        self.dtype = np.dtype(np.uint8)
        for number, path in enumerate(self._paths):
            _check(path, (self._starts[number + 1] - self._starts[number], *row))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> Pixels:
        """One row as a view of its file, several as an array of their own."""
        keys = key if isinstance(key, tuple) else (key,)
        # Compared by identity: an array among the keys would compare element by element.
        if any(each is Ellipsis for each in keys):
            at = next(place for place, each in enumerate(keys) if each is Ellipsis)
            keys = (*keys[:at], *[slice(None)] * (self.ndim - len(keys) + 1), *keys[at + 1 :])
        rows, rest = keys[0], keys[1:]
        if not isinstance(rows, slice | Sequence | np.ndarray):
            return self._row(operator.index(rows))[rest]
        numbers = range(*rows.indices(len(self))) if isinstance(rows, slice) else [operator.index(n) for n in rows]
        shape = np.broadcast_to(np.uint8(0), self.shape[1:])[rest].shape
        found = np.empty((len(numbers), *shape), np.uint8)
        for place, number in enumerate(numbers):
            found[place] = self._row(number)[rest]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of it in memory."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def verify(self) -> None:
        """Read every shard once and compare it with its MD5 in the index; raises InputError for the first that differs.

        A shard without an MD5 in the index is passed over.
        """
        for path, md5 in zip(self._paths, self._md5s, strict=True):
            if md5 and _file_md5(path) != md5:
                raise InputError(f"{path} is damaged: its content is not what its index says; run preprocess again")

    def _row(self, number: int) -> Pixels:
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        number %= len(self)
        shard = bisect_right(self._starts, number) - 1
        return cast(Pixels, self._mapped(shard)[number - self._starts[shard]])

    def _mapped(self, shard: int) -> Pixels:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        try:
            mapped: Pixels = np.load(self._paths[shard], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot read {self._paths[shard]} ({error}); run the preprocess step again") from None
        # A plain view: a memmap would make an object of its own class of every slice, which takes microseconds.
        self._open[shard] = mapped.view(np.ndarray)
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[shard]


def write_shards(
    folder: Path, name: str, rows: Iterable[Pixels], count: int, row: tuple[int, ...], a_shard: int = 0
) -> list[Shard]:
    """Write `count` rows of shape `row` into `folder` as `name.npy`, or `name-00000.npy`, ... of `a_shard` rows each.

    Returns what the index keeps of each file. One row at a time is in memory; the same rows give the same bytes.
    `a_shard` of 0 stands for ROWS_A_SHARD.
    """
    a_shard = a_shard or ROWS_A_SHARD
    files = max(1, -(-count // a_shard))
    stream, shards = iter(rows), []
    for number in range(files):
        here = min(a_shard, count - number * a_shard)
        path = folder / (f"{name}.npy" if files == 1 else f"{name}-{number:05d}.npy")
        shards.append({"file": path.name, "rows": here, "md5": _write(path, stream, here, row)})
    return shards


def _write(path: Path, rows: Iterable[Pixels], count: int, row: tuple[int, ...]) -> str:
    digest, header = hashlib.md5(usedforsecurity=False), io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (count, *row)})
    with path.open("wb") as stream:
        for data in chain([header.getvalue()], (_bytes(pixels, row) for pixels in islice(rows, count))):
            stream.write(data)
            digest.update(data)
    return digest.hexdigest()


def _bytes(pixels: Pixels, row: tuple[int, ...]) -> bytes:
    return np.ascontiguousarray(pixels, np.uint8).reshape(row).tobytes()


def _check(path: Path, shape: tuple[int, ...]) -> None:
    """Raise InputError unless the file is whole and holds uint8 of that shape; its pixels are not read."""
    try:
        with path.open("rb") as stream:
            version = npy.read_magic(stream)
            read: Callable[..., Any] = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            found, fortran, dtype = read(stream)
            expected = stream.tell() + int(np.prod(found)) * dtype.itemsize
            size = path.stat().st_size
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no .npy file"
        raise InputError(f"cannot read the shard {path}: {reason}; run the preprocess step again") from None
    if dtype != np.uint8 or fortran or found != shape:
        raise InputError(f"{path} is {dtype} {found}, its index says {shape}; run the preprocess step again")
    if size != expected:
        raise InputError(f"{path} has {size} bytes, not {expected}; run the preprocess step again")


def _file_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read the shard {path}: {error.strerror}; run the preprocess step again") from None
    return digest.hexdigest()
