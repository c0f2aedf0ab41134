"""Weight files of other people, read and written without their frameworks: names, shapes and NumPy arrays.

The safetensors format (github.com/huggingface/safetensors, README "Format"): eight bytes with the header's length,
little-endian; the header, JSON that gives each tensor's dtype, shape and place; then the bytes, without holes. It is
read and written here and not by its library for three things: a header that lies is told by name, a write takes one
tensor at a time, and a transposed array is written as it reads (the library writes its memory as it lies).
"""

import contextlib
import fnmatch
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from deberta_jax.convert.torch_pickle import INT64, Stored, is_shape, read_state, row_major, shown
from deberta_jax.errors import Failed, Refused, nearest

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch.model.bin")
TORCH_STEP = "pytorch.model-*.bin"  # what Microsoft's own training left: one for each step that was saved
INDEX = ".index.json"
FOREIGN = ("*.h5", "*.msgpack", "*.ckpt", "*.ckpt.*", "*.onnx")
LFS_POINTER = b"version https://git-lfs"
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = "__metadata__"
MADE_FOR_TORCH = MappingProxyType({"format": "pt"})  # transformers reads no file that does not say so

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Weights(Mapping[str, np.ndarray]):
    """Tensors by name. Each look-up reads that tensor from its file, anew; none is kept."""

    def __init__(self, stored: Mapping[str, Stored], files: Iterable[Path]):
        self._stored = dict(stored)
        self.files = tuple(files)  # those that hold tensors, without an index

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor, in memory of its own. Raises KeyError for other names, Refused when its file no longer reads."""
        return self._stored[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # the inherited one would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shapes_and_dtypes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """(shape, NumPy's name of the dtype) of each tensor; reads none."""
        return {name: (stored.shape, stored.dtype.name) for name, stored in self._stored.items()}


def open_weights(directory: Path) -> Weights:
    """The weights in a directory as transformers or Microsoft's code leave it; safetensors where there are both.

    Headers, indices and pickles are read and checked here, the tensors at look-up. Raises Refused, one line, for a
    directory without weights and for files that are missing, damaged, or do not agree with each other.
    """
    names = _names_in(directory)
    name = _choose(directory, names)
    read = _read_safetensors if name in SAFETENSORS else _read_torch
    if name.endswith(INDEX):
        return _read_shards(directory / name, names, read)
    return Weights(read(directory / name), [directory / name])


def _names_in(directory: Path) -> list[str]:
    """Names, not only of what exists: a link to nothing is better told as such than as no weights at all."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError as error:
        near = nearest(directory.name, (path.name for path in directory.parent.glob("*") if path.is_dir()))
        raise Refused(f"{directory} does not exist{near}") from error
    except OSError as error:
        raise Refused(f"{directory} cannot be read: {error}") from error


def _choose(directory: Path, names: list[str]) -> str:
    for name in (*SAFETENSORS, *TORCH):
        if name in names:
            return name
    steps = fnmatch.filter(names, TORCH_STEP)
    if len(steps) > 1:
        raise Refused(f"{directory} has {len(steps)} files {TORCH_STEP}: keep the one that is meant ({_some(steps)})")
    if not steps:
        foreign = sorted({name for pattern in FOREIGN for name in fnmatch.filter(names, pattern)})
        hint = f"; {_some(foreign)} must first be converted to safetensors with transformers" if foreign else ""
        wanted = ", ".join((*SAFETENSORS, *TORCH, TORCH_STEP))
        raise Refused(f"{directory} has no weights: it has {_some(names)}, none of {wanted}{hint}")
    return steps[0]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(shown(name)[1:-1] for name in names[:8]) + more if names else "nothing"


def _read_torch(path: Path) -> dict[str, Stored]:
    with _open(path):  # only for what `_open` refuses
        pass
    return read_state(path)


def _open(path: Path) -> BinaryIO:
    """The file, at its beginning. Raises Refused when there is none to read, or only Git's note of where it is."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    if file.read(len(LFS_POINTER)) == LFS_POINTER:
        file.close()
        raise Refused(f"{path} is a Git LFS pointer, not the weights: run git lfs pull there")
    file.seek(0)
    return file


def _read_shards(index: Path, names: list[str], read: Callable[[Path], dict[str, Stored]]) -> Weights:
    """The tensors of all shards, each as the index says."""
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if shard not in names:  # a name in the directory: the index cannot lead to another place
            raise Refused(f"{index} names the shard {shown(shard)}, which is not in its directory")
    stored: dict[str, Stored] = {}
    for shard in shards:
        tensors = read(index.parent / shard)
        _check_shard(index, shard, tensors, stored, weight_map)
        stored.update(tensors)
    return Weights(stored, [index.parent / shard for shard in shards])


def _weight_map(index: Path) -> dict[str, str]:
    with _open(index) as file:
        values = _json(index, file.read(MOST_HEADER_BYTES))
    weight_map = values.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Refused(f"{index} has no weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise Refused(f"{index}: the file of {shown(name)} is no name")
    return weight_map


def _check_shard(
    index: Path, shard: str, tensors: dict[str, Stored], before: dict[str, Stored], weight_map: dict[str, str]
) -> None:
    for name in tensors:
        if name in before:
            raise Refused(f"{index}: {shown(name)} is in two shards, {before[name].path.name} and {shard}")
        if name not in weight_map:
            raise Refused(f"{index} does not know {shown(name)}, which its shard {shard} holds")
    for name, promised in weight_map.items():
        if promised == shard and name not in tensors:
            raise Refused(f"{index.parent / shard} lacks {shown(name)}, which {index.name} says it holds")


def _json(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused for anything else, and for a name that occurs twice in an object."""
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: its JSON is damaged: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{path}: its JSON is no object")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"it has {shown(name)} twice")
        values[name] = value
    return values


def _read_safetensors(path: Path) -> dict[str, Stored]:
    """Where each tensor of a safetensors file lies, in the order of the file."""
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = 8 + int.from_bytes(file.read(8), "little")
            if start > size or start - 8 > MOST_HEADER_BYTES:
                raise Refused(f"{path} is cut off or no safetensors file: of its {size} bytes {start} would be header")
            header = _json(path, file.read(start - 8))
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    header.pop(METADATA, None)
    entries = sorted(((name, *_entry(path, name, header[name])) for name in header), key=lambda entry: entry[3:])
    _check_places(path, [(name, begin, end) for name, _, _, begin, end in entries], size - start)
    return {
        name: Stored(path, dtype, shape, row_major(shape), start + begin) for name, dtype, shape, begin, _ in entries
    }


def _entry(path: Path, name: str, entry: object) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of a tensor by its header, of which begin and end may still be anywhere."""
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"{where} is not described by dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise Refused(f"{where} has dtype {shown(str(entry['dtype']))}; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not is_shape(tuple(shape)):
        raise Refused(f"{where} has an impossible shape")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int and 0 <= n < INT64 for n in offsets)
    ):
        raise Refused(f"{where} has impossible data_offsets")
    begin, end = offsets
    needed = math.prod(shape) * dtype.itemsize
    if end - begin != needed:
        raise Refused(f"{where} has {end - begin} bytes, {entry['dtype']} of shape {shape} needs {needed}")
    return dtype, tuple(shape), begin, end


def _check_places(path: Path, places: list[tuple[str, int, int]], size: int) -> None:
    """Places in their order must fill the file's data: the format allows neither overlaps nor holes."""
    expected = 0
    for name, begin, end in places:
        if begin < expected:
            raise Refused(f"{path}: tensor {shown(name)} overlaps the one before it")
        if begin > expected:
            raise Refused(f"{path}: there is a hole of {begin - expected} bytes before tensor {shown(name)}")
        if end > size:
            raise Refused(f"{path} is cut off: tensor {shown(name)} ends at byte {end} of its data, which has {size}")
        expected = end
    if expected != size:
        raise Refused(f"{path} has {size - expected} bytes behind its last tensor")


def write_weights(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] = MADE_FOR_TORCH) -> None:
    """Writes a safetensors file, seen whole or not at all; `tensors` is asked for one at a time, twice each.

    Raises Refused for dtypes that the format or this program lacks, Failed when the disk refuses.
    """
    places = _places(path, tensors)
    header = json.dumps({METADATA: dict(metadata), **places}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for name in places:
                file.write(_bytes_of(tensors[name]))
        temporary.replace(path)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it is there only after a failure
            temporary.unlink()


def _places(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The header's entries in the order of the data: wide dtypes first, so that each tensor begins at a multiple."""
    described = {}
    for name in tensors:
        array = tensors[name]
        if array.dtype not in DTYPE_NAMES or name == METADATA:
            raise Refused(f"{path}: cannot write {shown(name)} of dtype {array.dtype}; known are {', '.join(DTYPES)}")
        described[name] = (array.dtype, array.shape, array.size * array.dtype.itemsize)
    places, end = {}, 0
    for name, (dtype, shape, count) in sorted(described.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        places[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    return places


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """The elements in the order in which they read, as bytes; a copy only of what lies otherwise in memory."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
