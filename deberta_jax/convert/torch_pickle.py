"""Files of torch.save, read without torch: tensors and nothing else.

A pickle is a program, and whoever wrote it chose what it calls. So nothing here is unpickled: a small machine runs the
opcodes that a dictionary of tensors needs, on values that cannot do anything, and refuses every other opcode before it
reads its argument. (pickle.Unpickler with its own find_class is not enough: the EXT opcodes take what other code of the
process has registered, NEWOBJ and BUILD call methods, and tuples hashed as keys may take for ever.)

The formats are those of torch/serialization.py: `_save` (a zip archive, since 1.6) and `_legacy_save` (before).
"""

import dataclasses
import math
import os
import pickle
import pickletools
import reprlib
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from deberta_jax.errors import Refused

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
NESTED = ("state_dict", "model", "model_state")  # where training scripts put the weights beside other things
MOST_PICKLE_BYTES = 1 << 22  # a tensor takes some 200: the largest DeBERTa's take 0.2 MB
MOST_DIMENSIONS = 32
MOST_ELEMENTS = 1 << 48  # what NumPy can address, also when one of the dimensions is zero
INT64 = 1 << 63
ONLY_TENSORS = "only tensors are read; nothing was executed"

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

_OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_short = reprlib.Repr()
_short.maxstring = 160


def shown(name: str) -> str:
    """A name that someone else chose, for a message: quoted, escaped, and not longer than a line."""
    return _short.repr(name)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def is_shape(shape: object) -> bool:
    """True for a tuple of ints that NumPy can make an array of; bounded before anything is multiplied."""
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS:
        return False
    if not all(type(size) is int and 0 <= size < INT64 for size in shape):
        return False
    return math.prod(max(size, 1) for size in shape) <= MOST_ELEMENTS


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies: its first element at byte `start` of the file, its strides in elements."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int

    def read(self) -> np.ndarray:
        """The tensor, contiguous, in memory of its own. Raises Refused when the file no longer gives its bytes."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        flat = self._read_flat(_span(self.shape, self.strides))
        if self.strides == row_major(self.shape):
            return flat.reshape(self.shape)
        bytes_apart = [stride * self.dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, bytes_apart).copy()

    def _read_flat(self, count: int) -> np.ndarray:
        on_disk = np.dtype(np.uint8) if self.dtype == np.bool_ else self.dtype
        try:
            flat = np.fromfile(self.path, on_disk, count, offset=self.start)
        except OSError as error:
            raise Refused(f"{self.path} cannot be read: {error}") from error
        if flat.size != count:
            raise Refused(f"{self.path} was cut off while it was being read")
        return flat != 0 if self.dtype == np.bool_ else flat  # other bytes than 0 and 1 are no bools to NumPy


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last of a tensor that is not empty, both included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that the pickle asks for: only a name, never what it names."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, within its bounds."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def at(self, path: Path, start: int) -> Stored:
        """The tensor, of a storage that begins at byte `start` of the file."""
        dtype = self.storage.dtype
        return Stored(path, dtype, self.shape, self.strides, start + self.offset * dtype.itemsize)


def read_state(path: Path) -> dict[str, Stored]:
    """The tensors of a file that torch.save wrote from a dictionary of tensors, in its order; reads none of them yet.

    When the dictionary has no tensors but exactly one dictionary of tensors under state_dict, model or model_state,
    that one is taken and what lies beside it is left. A dictionary of tensors and anything else is refused by name.
    Raises Refused for files that are damaged, big-endian or compressed, and for those that ask for more than tensors.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            tensors, starts = _read_zip(path, file) if is_zip else _read_legacy(path, file)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    return {name: tensor.at(path, starts[tensor.storage.key]) for name, tensor in tensors.items()}


def _tensors_of(path: Path, value: object) -> dict[str, _Tensor]:
    """The dictionary of tensors that a file holds, or the one dictionary of tensors in it."""
    if type(value) is not dict:
        raise Refused(f"{path} holds no dictionary of tensors but something of type {_type_name(type(value))}")
    if any(isinstance(entry, _Tensor) for entry in value.values()):
        return _only_tensors(path, value)
    nested = [key for key in NESTED if type(value.get(key)) is dict and value[key]]
    if len(nested) > 1:
        raise Refused(f"{path} holds dictionaries under {' and '.join(nested)}: which are the weights?")
    if not nested:
        names = ", ".join(shown(str(key)) for key in list(value)[:5]) or "nothing"
        raise Refused(f"{path} holds no tensors, neither itself nor under {', '.join(NESTED)}; it has {names}")
    return _only_tensors(path, value[nested[0]])


def _only_tensors(path: Path, state: dict[Any, Any]) -> dict[str, _Tensor]:
    for name, entry in state.items():
        if type(name) is not str or not isinstance(entry, _Tensor):
            raise Refused(f"{path}: the entry {shown(str(name))} is of type {_type_name(type(entry))}, not a tensor")
    return state


def _type_name(kind: type) -> str:
    return kind.__name__.strip("_").lower()


def _read_zip(path: Path, file: BinaryIO) -> tuple[dict[str, _Tensor], dict[str, int]]:
    """(tensors by name, first byte of each storage by key) of a zip archive."""
    members = _members(path, file)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Refused(f"{path} is a zip archive with {len(pickles)} data.pkl, not one: no file of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in members:
        order = _member_bytes(path, file, members[folder + "byteorder"])
        if order != b"little":
            raise Refused(f"{path} is not little-endian: its byte order is {shown(order.decode('latin-1'))}")
    machine = _Machine(path, _member_bytes(path, file, members[pickles[0]]))
    tensors = _tensors_of(path, machine.run())
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    return tensors, {key: _storage_start(path, file, members, folder, storages[key]) for key in storages}


def _members(path: Path, file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """Members by name. They are only looked up, never extracted: a name cannot lead anywhere."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise Refused(f"{path} is damaged or cut off: {error}") from error
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise Refused(f"{path} is a zip archive with two members of one name")
    return members


def _member_start(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """First byte of a member's data, all of which is in the file."""
    name = shown(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise Refused(f"{path}: {name} is compressed or encrypted, which torch.save never does")
    size = os.fstat(file.fileno()).st_size
    if not 0 <= info.header_offset < size:
        raise Refused(f"{path} is damaged: {name} begins outside of the file")
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or not header.startswith(ZIP_MAGIC):
        raise Refused(f"{path} is damaged: {name} is not where the archive's directory says")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))  # the lengths of its name and extra field
    if start + info.file_size > size:
        raise Refused(f"{path} is cut off: {name} ends behind the file's end")
    return start


def _member_bytes(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MOST_PICKLE_BYTES:
        raise Refused(f"{path}: {shown(info.filename)} has {info.file_size} bytes, more than any weights need")
    file.seek(_member_start(path, file, info))
    return file.read(info.file_size)


def _storage_start(
    path: Path, file: BinaryIO, members: Mapping[str, zipfile.ZipInfo], folder: str, storage: _Storage
) -> int:
    info = members.get(f"{folder}data/{storage.key}")
    if info is None:
        raise Refused(f"{path} has no storage {shown(storage.key)}, which its tensors lie in")
    if info.file_size != storage.bytes:
        raise Refused(
            f"{path}: storage {shown(storage.key)} has {info.file_size} bytes, "
            f"{storage.count} of {storage.dtype} are {storage.bytes}"
        )
    return _member_start(path, file, info)


def _read_legacy(path: Path, file: BinaryIO) -> tuple[dict[str, _Tensor], dict[str, int]]:
    """(tensors by name, first byte of each storage by key) of a file of torch before 1.6."""
    file.seek(0)
    head = file.read(MOST_PICKLE_BYTES)
    position = 0
    for promised in (LEGACY_MAGIC, LEGACY_PROTOCOL):
        number = _Machine(path, head, position)
        if number.run() != promised:
            raise Refused(f"{path} is no file of torch.save: it lacks PyTorch's magic number or protocol")
        position = number.position
    system = _Machine(path, head, position)
    _check_little_endian(path, system.run())
    state = _Machine(path, head, system.position)
    tensors = _tensors_of(path, state.run())
    keys = _Machine(path, head, state.position)
    storages = _ordered(path, keys.run(), state.storages)
    return tensors, _legacy_starts(path, file, keys.position, storages)


def _check_little_endian(path: Path, system: object) -> None:
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused(f"{path} is not little-endian")


def _ordered(path: Path, keys: object, storages: Mapping[str, _Storage]) -> list[_Storage]:
    """Storages as they follow each other in a legacy file."""
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise Refused(f"{path} is damaged: its list of storages is not that of its tensors")
    return [storages[key] for key in keys]


def _legacy_starts(path: Path, file: BinaryIO, position: int, storages: list[_Storage]) -> dict[str, int]:
    size = os.fstat(file.fileno()).st_size
    starts = {}
    for storage in storages:
        file.seek(position)
        count = file.read(8)
        starts[storage.key] = position + 8
        position += 8 + storage.bytes
        if position > size:
            raise Refused(f"{path} is cut off: it has {size} bytes, storage {shown(storage.key)} ends at {position}")
        if int.from_bytes(count, "little") != storage.count:
            raise Refused(f"{path} is damaged: storage {shown(storage.key)} is not of the size its tensors say")
    return starts


class _Machine:
    """Runs a pickle of strings, numbers, lists, dictionaries and tensors; everything else is refused.

    Each opcode adds at most one value, so memory and time grow with the pickle's length, whatever its author intended.
    `storages` are those that were named, `position` is the byte after the pickle.
    """

    def __init__(self, path: Path, data: bytes, position: int = 0):
        self.storages: dict[str, _Storage] = {}
        self.position = position
        self._path = path
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        """The value that the pickle leaves. Raises Refused."""
        try:
            while (opcode := self.take(1)) != pickle.STOP:
                if opcode not in _ACTIONS:
                    raise Refused(f"{self._path} {_unknown(opcode[0])}: {ONLY_TENSORS}")
                _ACTIONS[opcode](self)
            return self.pop()
        except ValueError as error:
            raise Refused(f"{self._path} is damaged, or was never a file of torch.save: {error}") from error

    def take(self, count: int) -> bytes:
        taken = self._data[self.position : self.position + count]
        if len(taken) != count:
            raise ValueError("its pickle ends in the middle")
        self.position += count
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def line(self) -> str:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("its pickle ends in the middle")
        line = self.take(end + 1 - self.position)
        return line[:-1].decode("utf-8")

    def pop(self, kind: type = object) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise ValueError(f"its pickle lacks something of type {_type_name(kind)} where it uses it")
        return self._stack.pop()

    def top(self, kind: type) -> Any:
        self._stack.append(self.pop(kind))
        return self._stack[-1]

    def pop_marked(self) -> list[Any]:
        if not self._marks:
            raise ValueError("its pickle lacks a mark where it uses it")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def skip(self, count: int) -> None:
        self.take(count)

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def string(self, length: str) -> None:
        self.push(self.take(self.number(length)).decode("utf-8"))

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.number("B")), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def marked_tuple(self) -> None:
        self.push(tuple(self.pop_marked()))

    def put(self, index: int) -> None:
        self.memo[index] = self.top(object)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("its pickle remembers a value that it never had")
        self.push(self.memo[index])

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and 0 <= key < 1 << 31):
                raise ValueError("its pickle has a dictionary whose keys are neither strings nor small numbers")
            target[key] = value

    def ask(self, module: str, name: str) -> None:
        """GLOBAL and its kind: the name, when it is one of those that tensors need."""
        if (module, name) not in _CALLS and not (module == "torch" and name in STORAGES):
            asked = shown(f"{module}.{name}")[1:-1]
            raise Refused(f"{self._path} asks for {asked}: {ONLY_TENSORS}")
        self.push(_Global(module, name))

    def ask_lines(self) -> None:
        self.ask(self.line(), self.line())

    def ask_strings(self) -> None:
        name, module = self.pop(str), self.pop(str)
        self.ask(module, name)

    def instance(self) -> None:
        """INST, which nothing needs: told by the name it asks for."""
        self.ask_lines()
        raise Refused(f"{self._path} uses the pickle opcode INST: {ONLY_TENSORS}")

    def reduce(self) -> None:
        arguments, function = self.pop(tuple), self.pop(_Global)
        if (function.module, function.name) not in _CALLS:
            raise ValueError(f"its pickle calls {function.name}")
        self.push(_CALLS[function.module, function.name](arguments))

    def build(self) -> None:
        """Attributes of an OrderedDict, such as the _metadata of a state: there are no attributes here to set."""
        self.pop(dict)
        self.top(dict)

    def persistent(self) -> None:
        """A storage: ("storage", class, key, device, count), and None where old files had views of storages."""
        identity = self.pop(tuple)
        if len(identity) not in (5, 6) or identity[0] != "storage" or identity[5:] not in ((), (None,)):
            raise ValueError("its pickle refers to something that is no storage")
        _, kind, key, device, count = identity[:5]
        named = isinstance(kind, _Global) and kind.name in STORAGES
        if not named or type(key) is not str or type(device) is not str:
            raise ValueError("its pickle refers to a storage of no known type")
        if type(count) is not int or not 0 <= count <= MOST_ELEMENTS:
            raise ValueError(f"its storage {shown(key)} has an impossible size")
        storage = _Storage(key, STORAGES[kind.name], count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"its storage {shown(key)} is of two types")
        self.push(storage)


def _unknown(opcode: int) -> str:
    if opcode in _OPCODES:
        return f"uses the pickle opcode {_OPCODES[opcode]}"
    return f"is no file of torch.save, it has a byte {opcode:#04x} where a pickle's opcode should be"


def _ordered_dict(arguments: tuple) -> dict:
    if arguments:
        raise ValueError("its pickle makes an OrderedDict with arguments")
    return {}


def _size(arguments: tuple) -> tuple:
    if len(arguments) != 1 or not is_shape(arguments[0]):
        raise ValueError("its pickle has a torch.Size that is none")
    return arguments[0]


def _tensor(arguments: tuple) -> _Tensor:
    """torch._utils._rebuild_tensor: a view of a storage, which must lie in it and not be larger."""
    if len(arguments) != 4:
        raise ValueError("its pickle makes a tensor of a wrong number of things")
    storage, offset, shape, strides = arguments
    if not isinstance(storage, _Storage) or not is_shape(shape) or type(strides) is not tuple:
        raise ValueError("its pickle makes a tensor of things that make none")
    counts = (offset, *strides)
    if len(strides) != len(shape) or not all(type(count) is int and 0 <= count < INT64 for count in counts):
        raise ValueError(f"its tensor in storage {shown(storage.key)} has impossible offsets or strides")
    end = offset + (0 if 0 in shape else _span(shape, strides))
    if end > storage.count or (0 not in shape and math.prod(shape) > storage.count):  # expanded: would fill the memory
        raise ValueError(f"its tensor in storage {shown(storage.key)} reaches outside of it or is larger")
    # The stride of a dimension of one is never used, and PyTorch leaves any number there.
    used = zip(shape, strides, row_major(shape), strict=True)
    return _Tensor(storage, offset, shape, tuple(usual if size == 1 else stride for size, stride, usual in used))


def _tensor_v2(arguments: tuple) -> _Tensor:
    """torch._utils._rebuild_tensor_v2: also requires_grad, hooks and, rarely, bits that negate or conjugate."""
    if len(arguments) not in (6, 7) or arguments[6:] not in ((), ({},), (None,)):
        raise ValueError("its pickle makes a tensor that is negated, conjugated or of a wrong number of things")
    return _tensor(arguments[:4])


def _parameter(arguments: tuple) -> _Tensor:
    """torch._utils._rebuild_parameter and _with_state: the tensor; what it was to training is left."""
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], _Tensor):
        raise ValueError("its pickle makes a parameter of what is no tensor")
    return arguments[0]


_CALLS: dict[tuple[str, str], Callable[[tuple], Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}

_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: lambda m: m.skip(1),
    pickle.FRAME: lambda m: m.skip(8),  # only a hint of how much to read at once
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("i")),
    pickle.BININT1: lambda m: m.push(m.number("B")),
    pickle.BININT2: lambda m: m.push(m.number("H")),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    pickle.LONG1: _Machine.long,
    pickle.BINUNICODE: lambda m: m.string("I"),
    pickle.SHORT_BINUNICODE: lambda m: m.string("B"),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.MARK: _Machine.mark,
    pickle.TUPLE: _Machine.marked_tuple,
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.APPEND: lambda m: m.append([m.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_marked()),
    pickle.SETITEM: lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_marked()),
    pickle.BINPUT: lambda m: m.put(m.number("B")),
    pickle.LONG_BINPUT: lambda m: m.put(m.number("I")),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.BINGET: lambda m: m.get(m.number("B")),
    pickle.LONG_BINGET: lambda m: m.get(m.number("I")),
    pickle.GLOBAL: _Machine.ask_lines,
    pickle.STACK_GLOBAL: _Machine.ask_strings,
    pickle.INST: _Machine.instance,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persistent,
}
