"""Files of torch.save: tensors come back bit for bit, and nothing that a pickle asks for ever happens.

PyTorch is not installed with the package, so most files here are assembled opcode by opcode; the tests with the marker
`torch` show that PyTorch writes and reads the same.
"""

import builtins
import copyreg
import gc
import io
import os
import pickle
import pickletools
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deberta_jax.convert.torch_pickle import MOST_PICKLE_BYTES, STORAGES, read_state
from deberta_jax.errors import Refused

KINDS = {dtype: name for name, dtype in STORAGES.items()}
PROTO = pickle.PROTO + b"\x02"
FORMATS = ("zip", "legacy")
V2 = ("torch._utils", "_rebuild_tensor_v2")


# An assembler of pickles: each function gives the bytes that leave one value on the stack.


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(raw)]) + raw


def tuple_of(*values: bytes) -> bytes:
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def numbers(*values: int) -> bytes:
    return tuple_of(*map(number, values))


def name_of(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + pickle.REDUCE


def dictionary(entries: dict[str, bytes]) -> bytes:
    pairs = b"".join(text(key) + value for key, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def ordered(entries: dict[str, bytes]) -> bytes:
    pairs = b"".join(text(key) + value for key, value in entries.items())
    return call(name_of("collections", "OrderedDict")) + pickle.MARK + pairs + pickle.SETITEMS


def storage(kind: str, key: str, count: int, *more: bytes) -> bytes:
    identity = tuple_of(text("storage"), name_of("torch", kind), text(key), text("cpu"), number(count), *more)
    return identity + pickle.BINPERSID


def tensor(stored: bytes, shape: tuple, strides: tuple, offset: int = 0, function: tuple = V2) -> bytes:
    """A view of a storage, as torch._utils makes it."""
    view = (stored, number(offset), numbers(*shape), numbers(*strides))
    after = (pickle.NEWFALSE, ordered({})) if function == V2 else ()
    return call(name_of(*function), *view, *after)


def whole(array: np.ndarray, key: str, *more: bytes) -> bytes:
    """A contiguous array that has a storage for itself."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return tensor(storage(KINDS[array.dtype], key, array.size, *more), array.shape, strides)


def write_zip(path: Path, state: bytes, storages: dict[str, np.ndarray], extra=(), **options) -> Path:
    members = {"data.pkl": PROTO + state + pickle.STOP, "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{key}": array.tobytes() for key, array in storages.items()} | dict(extra)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return path


def legacy_parts(state: bytes, keys: list[str]) -> list[bytes]:
    """The five pickles before the data: magic, protocol, system, state, keys."""
    sizes = dictionary({"short": number(2), "int": number(4), "long": number(4)})
    system = {"protocol_version": number(1001), "little_endian": pickle.NEWTRUE, "type_sizes": sizes}
    listed = pickle.EMPTY_LIST + pickle.MARK + b"".join(map(text, keys)) + pickle.APPENDS
    values = [number(0x1950A86A20F9469CFC6C), number(1001), dictionary(system), state, listed]
    return [PROTO + value + pickle.STOP for value in values]


def write_legacy(path: Path, state: bytes, storages: dict[str, np.ndarray]) -> Path:
    data = [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(legacy_parts(state, list(storages)) + data))
    return path


def write(path: Path, form: str, state: bytes, storages: dict[str, np.ndarray]) -> Path:
    return (write_zip if form == "zip" else write_legacy)(path, state, storages)


def write_arrays(path: Path, form: str, arrays: dict[str, np.ndarray]) -> Path:
    """A file as torch.save(state_dict) makes it, each array with a storage of its own."""
    storages = {str(index): array for index, array in enumerate(arrays.values())}
    view = () if form == "zip" else (pickle.NONE,)
    entries = {name: whole(array, str(index), *view) for index, (name, array) in enumerate(arrays.items())}
    attributes = dictionary({"_metadata": ordered({"": dictionary({"version": number(1)})})})
    return write(path, form, ordered(entries) + attributes + pickle.BUILD, storages)


def read_all(path: Path) -> dict[str, np.ndarray]:
    return {name: stored.read() for name, stored in read_state(path).items()}


def assert_same(read: np.ndarray, array: np.ndarray) -> None:
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert read.flags.c_contiguous
    assert read.tobytes() == array.tobytes()


def arrays_of_all_kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {dtype.name: (rng.normal(size=(3, 5)) * 50).astype(dtype) for dtype in STORAGES.values()}
    return arrays | {"0-d": np.array(-1.5, np.float32), "empty": np.empty((0, 7), np.float32)}


BASE = np.arange(24, dtype=np.float32)


def base_state(*tensors: bytes) -> bytes:
    return dictionary({f"t{index}": tensor for index, tensor in enumerate(tensors)})


@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_tensor_is_read_bit_for_bit(tmp_path, form):
    arrays = arrays_of_all_kinds()
    read = read_all(write_arrays(tmp_path / "x.bin", form, arrays))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert_same(read[name], array)


@pytest.mark.parametrize("form", FORMATS)
def test_views_of_one_storage_are_what_their_strides_say(tmp_path, form):
    stored = storage("FloatStorage", "7", 24)
    views = {  # shape, strides, offset, what NumPy makes of it
        "tied": ((4, 6), (6, 1), 0, BASE.reshape(4, 6)),
        "transposed": ((6, 4), (1, 6), 0, BASE.reshape(4, 6).T),
        "row": ((6,), (1,), 12, BASE.reshape(4, 6)[2]),
        "column": ((4,), (6,), 5, BASE.reshape(4, 6)[:, 5]),
        "block": ((2, 2), (12, 2), 7, BASE.reshape(4, 6)[1::2, 1:5:2]),
        "last": ((), (), 23, BASE[23]),
        "one": ((1, 3), (1 << 62, 1), 0, BASE[None, :3]),  # PyTorch leaves any stride where it is not used
        "repeated": ((2, 3), (0, 1), 4, np.stack([BASE[4:7]] * 2)),
        "nothing": ((3, 0), (1, 1), 24, np.empty((3, 0), np.float32)),
    }
    entries = {name: tensor(stored, *view[:3]) for name, view in views.items()}
    read = read_all(write(tmp_path / "x.bin", form, dictionary(entries), {"7": BASE}))
    for name, (*_, array) in views.items():
        assert_same(read[name], np.ascontiguousarray(array).reshape(array.shape))


def test_parameters_sizes_and_the_first_rebuild_are_read(tmp_path):
    plain = tensor(storage("FloatStorage", "0", 24), (24,), (1,))
    size = call(name_of("torch", "Size"), numbers(24))
    sized = (storage("FloatStorage", "0", 24), number(0), size, numbers(1), pickle.NEWTRUE, ordered({}))
    entries = {
        "first": tensor(storage("FloatStorage", "0", 24), (24,), (1,), function=("torch._utils", "_rebuild_tensor")),
        "size": call(name_of(*V2), *sized, dictionary({})),
        "parameter": call(name_of("torch._utils", "_rebuild_parameter"), plain, pickle.NEWTRUE, ordered({})),
        "with_state": call(
            name_of("torch._utils", "_rebuild_parameter_with_state"),
            *(plain, pickle.NEWTRUE, ordered({}), dictionary({"tag": number(1)})),
        ),
    }
    read = read_all(write_zip(tmp_path / "x.bin", dictionary(entries), {"0": BASE}))
    assert list(read) == list(entries)
    for array in read.values():
        assert_same(array, BASE)


def test_opcodes_of_the_fourth_protocol_are_read(tmp_path):
    def short(value: str) -> bytes:
        return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode() + pickle.MEMOIZE

    made = short("collections") + short("OrderedDict") + pickle.STACK_GLOBAL + pickle.MEMOIZE
    again = pickle.BINGET + b"\x02"  # the third that was remembered: OrderedDict
    hooks = again + pickle.EMPTY_TUPLE + pickle.REDUCE
    view = storage("FloatStorage", "0", 24) + number(0) + numbers(24) + numbers(1) + pickle.NEWFALSE + hooks
    function = short("torch._utils") + short("_rebuild_tensor_v2") + pickle.STACK_GLOBAL
    state = made + pickle.EMPTY_TUPLE + pickle.REDUCE + short("w") + function + pickle.MARK + view + pickle.TUPLE
    frame = pickle.FRAME + struct.pack("<Q", 1000)
    path = write_zip(tmp_path / "x.bin", frame + state + pickle.REDUCE + pickle.SETITEM, {"0": BASE})
    assert_same(read_all(path)["w"], BASE)


@pytest.mark.parametrize("form", FORMATS)
def test_a_tensor_is_not_read_before_it_is_asked_for(tmp_path, form):
    path = write_arrays(tmp_path / "x.bin", form, {"a": BASE, "b": BASE + 1})
    state = read_state(path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(BASE.tobytes(), (BASE + 7).tobytes()))
    assert_same(state["a"].read(), BASE + 7)
    path.write_bytes(raw[: raw.index((BASE + 1).tobytes()) + 8])
    assert_same(state["a"].read(), BASE)
    with pytest.raises(Refused, match=r"x\.bin was cut off while it was being read"):
        state["b"].read()
    path.unlink()
    with pytest.raises(Refused, match=r"x\.bin cannot be read"):
        state["b"].read()


def test_bools_that_are_neither_zero_nor_one_become_bools(tmp_path):
    path = write_arrays(tmp_path / "x.bin", "zip", {"mask": np.array([True, False, True])})
    path.write_bytes(path.read_bytes().replace(b"\1\0\1", b"\7\0\1"))
    assert read_all(path)["mask"].view(np.uint8).tolist() == [1, 0, 1]


# What a file may hold.

W = tensor(storage("FloatStorage", "0", 24), (24,), (1,))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state"])
def test_weights_beside_other_things_are_found(tmp_path, key):
    half = pickle.BINFLOAT + struct.pack(">d", 0.5)
    optimizer = pickle.EMPTY_DICT + number(3) + dictionary({"exp_avg": W}) + pickle.SETITEM
    beside = {"epoch": number(3), "best": half, "optimizer": optimizer, "args": dictionary({"name": text("model")})}
    path = write_zip(tmp_path / "x.bin", dictionary({**beside, key: dictionary({"w": W})}), {"0": BASE})
    read = read_all(path)
    assert list(read) == ["w"]
    assert_same(read["w"], BASE)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (dictionary({}), "holds no tensors, .*; it has nothing"),
        (W, "no dictionary of tensors but something of type tensor"),
        (pickle.EMPTY_LIST + W + pickle.APPEND, "something of type list"),
        (dictionary({"w": W, "epoch": number(3)}), "the entry 'epoch' is of type int, not a tensor"),
        (dictionary({"w": W, "model": dictionary({"w": W})}), "the entry 'model' is of type dict, not a tensor"),
        (dictionary({"model": dictionary({"w": W, "lr": number(1)})}), "the entry 'lr' is of type int, not a tensor"),
        (
            dictionary({"model": dictionary({"w": W}), "state_dict": dictionary({"w": W})}),
            "holds dictionaries under state_dict and model: which are the weights?",
        ),
        (
            dictionary({"net": dictionary({"w": W})}),
            "holds no tensors, .* state_dict, model, model_state; it has 'net'",
        ),
        (pickle.EMPTY_DICT + number(5) + W + pickle.SETITEM, "the entry '5' is of type tensor, not a tensor"),
    ],
)
def test_anything_but_one_dictionary_of_tensors_is_refused_by_name(tmp_path, state, message):
    with pytest.raises(Refused, match=message):
        read_state(write_zip(tmp_path / "x.bin", state, {"0": BASE}))


# Pickles that do something. Each payload leaves its mark when pickle.loads runs it.


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def shell(mark: Path) -> str:
    return f"touch {mark}"


def python(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w').close()"


def saved_array(mark: Path) -> str:
    """A file of numpy.save that holds a call."""
    file = mark.with_name("array.npy")
    np.save(file, np.array([Calls(os.system, shell(mark))], dtype=object), allow_pickle=True)
    return str(file)


def planted_setstate(mark: Path) -> bytes:
    """The first BUILD gives an object the method that the second one calls."""
    namespace = call(name_of("argparse", "Namespace"))
    method = dictionary({"__setstate__": SYSTEM})
    return namespace + method + pickle.BUILD + text(shell(mark)) + pickle.BUILD


def found_by_attribute(mark: Path) -> bytes:
    module = call(name_of("importlib", "import_module"), text("os"))
    return call(call(call(name_of("operator", "attrgetter"), text("system")), module), text(shell(mark)))


def new_object(mark: Path) -> bytes:
    """map.__new__ may be had without a call; list then runs it."""
    lazily = name_of("builtins", "map") + tuple_of(SYSTEM, tuple_of(text(shell(mark)))) + pickle.NEWOBJ
    return call(name_of("builtins", "list"), lazily)


def among_tensors(mark: Path) -> bytes:
    return dictionary({"a": number(1), "b": call(SYSTEM, text(shell(mark)))})


def by_strings(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def pickled(call_of, protocol: int):
    return lambda mark: pickle.dumps(call_of(mark), protocol)


def assembled(value_of):
    return lambda mark: pickle.PROTO + b"\x04" + value_of(mark) + pickle.STOP


SYSTEM = name_of("os", "system")
CALLED = {
    "system": lambda mark: Calls(os.system, shell(mark)),
    "exec": lambda mark: Calls(builtins.exec, python(mark)),
    "eval": lambda mark: Calls(builtins.eval, python(mark)),
    "numpy.load": lambda mark: Calls(np.load, saved_array(mark), None, True),
    "pickle.loads": lambda mark: Calls(pickle.loads, pickle.dumps(Calls(os.system, shell(mark)))),
}
ASSEMBLED = {
    "BUILD": planted_setstate,
    "attrgetter": found_by_attribute,
    "INST": lambda mark: pickle.MARK + text(shell(mark)) + pickle.INST + b"os\nsystem\n",
    "OBJ": lambda mark: pickle.MARK + SYSTEM + text(shell(mark)) + pickle.OBJ,
    "NEWOBJ": new_object,
    "STACK_GLOBAL": lambda mark: call(by_strings("os", "system"), text(shell(mark))),
    "dotted": lambda mark: call(by_strings("os", "path.os.system"), text(shell(mark))),
    "among tensors": among_tensors,
}
PAYLOADS = {f"{name} {n}": pickled(value, n) for name, value in CALLED.items() for n in (0, 2, 4)}
PAYLOADS |= {name: assembled(value) for name, value in ASSEMBLED.items()}


def place(path: Path, where: str, payload: bytes) -> None:
    """A pickle as the whole file, as the pickle of a zip archive, or as one of the five of a legacy file."""
    parts = legacy_parts(dictionary({"w": W}), ["0"])
    if where == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
    elif where == "alone":
        path.write_bytes(payload)
    else:
        parts[int(where)] = payload
        path.write_bytes(b"".join(parts))


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_malicious_pickle_does_nothing_and_is_refused_in_one_line(tmp_path, name):
    mark = tmp_path / "mark"
    payload = PAYLOADS[name](mark)
    for where in ("alone", "zip", "0", "1", "2", "3", "4"):
        place(tmp_path / "pytorch_model.bin", where, payload)
        with pytest.raises(
            Refused, match="pytorch_model.bin .*: only tensors are read; nothing was executed$"
        ) as refused:
            read_state(tmp_path / "pytorch_model.bin")
        assert "\n" not in str(refused.value)
        assert not mark.exists()
    pickle.loads(payload)
    assert mark.exists()  # so it was no harmless pickle


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("exec 2", "asks for __builtin__.exec"),
        ("exec 4", "asks for builtins.exec"),
        ("INST", "asks for os.system"),
        ("dotted", "asks for os.path.os.system"),
        ("numpy.load 2", "asks for numpy.load"),
        ("system 0", f"asks for {os.system.__module__}.system"),
    ],
)
def test_what_was_asked_for_is_named(tmp_path, name, asked):
    place(tmp_path / "x.bin", "zip", PAYLOADS[name](tmp_path / "mark"))
    with pytest.raises(Refused, match=rf"x\.bin {asked}: only tensors"):
        read_state(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "_utils._rebuild_tensor_v2"),
        ("torch", "FloatStorage.__init__"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "load"),
        ("torch.serialization", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "abc.sys"),
        ("numpy", "FloatStorage"),
        ("torch\nos", "system\\n"),
    ],
)
def test_names_near_those_that_are_known_are_refused(tmp_path, module, name):
    path = write_zip(tmp_path / "x.bin", by_strings(module, name), {})
    with pytest.raises(Refused, match="asks for .*: only tensors are read; nothing was executed") as refused:
        read_state(path)
    assert "\n" not in str(refused.value)


def test_registered_extensions_are_not_consulted(tmp_path):
    """Not even one that the process has used, which pickle then takes from a cache, past find_class."""
    mark = tmp_path / "mark"
    copyreg.add_extension(os.system.__module__, "system", 0x7E)
    try:
        payload = pickle.dumps(Calls(os.system, shell(mark)), 2)
        assert pickle.EXT1 + b"\x7e" in payload
        pickle.loads(payload)
        assert mark.exists()
        mark.unlink()
        for where in ("alone", "zip", "0", "3"):
            place(tmp_path / "x.bin", where, payload)
            with pytest.raises(Refused, match="uses the pickle opcode EXT1: only tensors are read"):
                read_state(tmp_path / "x.bin")
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 0x7E)
    assert not mark.exists()


KNOWN_OPCODES = """PROTO FRAME NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT LONG1 BINUNICODE SHORT_BINUNICODE
EMPTY_TUPLE EMPTY_LIST EMPTY_DICT MARK TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT
MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL INST REDUCE BUILD BINPERSID STOP"""  # INST only to be refused


def test_every_other_opcode_is_refused_before_its_argument_is_read(tmp_path):
    known = KNOWN_OPCODES.split()
    others = [opcode for opcode in pickletools.opcodes if opcode.name not in known]
    assert len(others) == len(pickletools.opcodes) - len(known)
    for opcode in others:
        place(tmp_path / "x.bin", "alone", PROTO + opcode.code.encode("latin-1"))
        with pytest.raises(Refused, match=f"uses the pickle opcode {opcode.name}: only tensors are read"):
            read_state(tmp_path / "x.bin")


def test_attributes_of_an_ordered_dict_are_dropped(tmp_path):
    attributes = {"__setstate__": name_of(*V2), "keys": text("x"), "__class__": name_of("torch", "Size")}
    state = ordered({"w": W}) + (dictionary(attributes) + pickle.BUILD) * 2
    assert_same(read_all(write_zip(tmp_path / "x.bin", state, {"0": BASE}))["w"], BASE)


STORED = storage("FloatStorage", "0", 24)
REFUSED = {  # states that are none, and what is said of them
    "called class": (call(name_of("torch", "FloatStorage"), number(3)), "calls FloatStorage"),
    "called string": (call(text("os.system"), text("x")), "lacks something of type global"),
    "state of a list": (pickle.EMPTY_LIST + dictionary({}) + pickle.BUILD, "lacks something of type dict"),
    "state of a kind": (ordered({}) + text("x") + pickle.BUILD, "lacks something of type dict"),
    "filled OrderedDict": (call(name_of("collections", "OrderedDict"), pickle.EMPTY_LIST), "OrderedDict with arg"),
    "nothing": (b"", "lacks something of type object"),
    "no mark": (pickle.TUPLE, "lacks a mark"),
    "odd pairs": (pickle.EMPTY_DICT + pickle.MARK + text("a") + pickle.SETITEMS, "argument 2 is shorter"),
    "never remembered": (pickle.BINGET + b"\x05", "remembers a value"),
    "persistent string": (text("0") + pickle.BINPERSID, "lacks something of type tuple"),
    "persistent nothing": (pickle.EMPTY_TUPLE + pickle.BINPERSID, "no storage"),
    "persistent module": (tuple_of(text("module"), *[text("x")] * 4) + pickle.BINPERSID, "no storage"),
    "persistent view": (storage("FloatStorage", "0", 24, tuple_of(text("1"), number(0), number(1))), "no storage"),
    "persistent class": (
        tuple_of(text("storage"), name_of("collections", "OrderedDict"), text("0"), text("cpu"), number(1))
        + pickle.BINPERSID,
        "no known type",
    ),
    "persistent key": (
        tuple_of(text("storage"), name_of("torch", "FloatStorage"), number(0), text("cpu"), number(1))
        + pickle.BINPERSID,
        "no known type",
    ),
    "negative size": (storage("FloatStorage", "0", -1), "impossible size"),
    "huge size": (storage("FloatStorage", "0", 1 << 62), "impossible size"),
    "two types": (storage("FloatStorage", "0", 24) + storage("HalfStorage", "0", 24), "two types"),
    "negated": (
        call(
            name_of(*V2),
            STORED,
            number(0),
            numbers(24),
            numbers(1),
            pickle.NEWFALSE,
            ordered({}),
            dictionary({"neg": pickle.NEWTRUE}),
        ),
        "negated",
    ),
    "few arguments": (call(name_of("torch._utils", "_rebuild_tensor"), STORED), "wrong number"),
    "no storage": (tensor(text("0"), (24,), (1,)), "things that make none"),
    "no parameter": (call(name_of("torch._utils", "_rebuild_parameter"), text("x"), text("x"), text("x")), "no tensor"),
    "no size": (call(name_of("torch", "Size"), text("ab")), "torch.Size that is none"),
    "tuple as key": (pickle.EMPTY_DICT + numbers(1, 2) + text("x") + pickle.SETITEM, "keys are neither"),
    "long string": (pickle.BINUNICODE + b"\xff\xff\xff\xff" + b"abc", "ends in the middle"),
    "no newline": (pickle.GLOBAL + b"os", "ends in the middle"),
    "not utf-8": (pickle.SHORT_BINUNICODE + b"\x01\xff", "codec can't decode"),
}
OUTSIDE = {  # shape, strides, offset of a view of 24 elements
    "behind the end": ((24,), (1,), 1),
    "far apart": ((2,), (24,), 0),
    "negative offset": ((1,), (1,), -1),
    "negative stride": ((2,), (-1,), 5),
    "negative size": ((-1,), (1,), 0),
    "expanded": ((1 << 20, 24), (0, 1), 0),
    "expanded a little": ((2, 24), (0, 1), 0),
    "huge product": ((1 << 40, 1 << 40), (0, 0), 0),
    "huge and empty": ((1 << 62, 0), (0, 0), 0),
    "empty behind the end": ((0,), (1,), 25),
    "huge numbers": ((1 << 900,), (1,), 0),
    "huge offset": ((1,), (1,), 1 << 900),
    "many dimensions": ((1,) * 40, (1,) * 40, 0),
    "fewer strides": ((2, 2), (1,), 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pickle_that_makes_no_sense_is_refused(tmp_path, name):
    state, message = REFUSED[name]
    path = write_zip(tmp_path / "x.bin", state, {"0": BASE})
    with pytest.raises(Refused, match=rf"x\.bin is damaged, or was never a file of torch.save: .*{message}"):
        read_state(path)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("form", FORMATS)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, form, name):
    shape, strides, offset = OUTSIDE[name]
    path = write(tmp_path / "x.bin", form, dictionary({"w": tensor(STORED, shape, strides, offset)}), {"0": BASE})
    with pytest.raises(Refused, match=r"x\.bin is damaged, or was never a file of torch.save: its (tensor|pickle)"):
        read_state(path)


REMEMBER, AGAIN = pickle.BINPUT + b"\x00", pickle.BINGET + b"\x00"
DOUBLED = REMEMBER + AGAIN + pickle.TUPLE2  # a tuple of twice what was there
NESTED_TWICE = REMEMBER + pickle.EMPTY_LIST + AGAIN + pickle.APPEND + AGAIN + pickle.APPEND
BOMBS = {
    "keys that take for ever to hash": (
        pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + DOUBLED * 30 + text("x") + pickle.SETITEM
    ),
    "values that take for ever to compare": pickle.EMPTY_TUPLE + DOUBLED * 30 + pickle.BINPERSID,
    "lists in lists": pickle.EMPTY_LIST * 1_000_000 + pickle.APPEND * 999_999,
    "tuples in tuples": pickle.EMPTY_TUPLE + pickle.TUPLE1 * 1_000_000,
    "marks": pickle.MARK * 1_000_000,
    "the same twice, often": pickle.EMPTY_LIST + NESTED_TWICE * 1000,
    "remembered far away": pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_made_to_take_for_ever_is_soon_refused(tmp_path, name):
    path = write_zip(tmp_path / "x.bin", BOMBS[name], {"0": BASE})
    gc.freeze()  # what other tests have left is not looked through at every thousandth list
    try:
        begin = time.process_time()  # others may have the processor
        with pytest.raises(Refused, match=r"x\.bin (is damaged|holds no dictionary of tensors)"):
            read_state(path)
        assert time.process_time() - begin < 5
    finally:
        gc.unfreeze()


# Archives and legacy files around the pickle.


def test_a_storage_is_looked_up_and_leads_nowhere_else(tmp_path):
    (tmp_path / "secret").write_bytes(BASE.tobytes())
    for key in ("../secret", "../../secret", str(tmp_path / "secret"), "1", ""):
        state = dictionary({"w": tensor(storage("FloatStorage", key, 24), (24,), (1,))})
        with pytest.raises(Refused, match=r"x\.bin has no storage"):
            read_state(write_zip(tmp_path / "x.bin", state, {"0": BASE}))


def test_a_storage_of_another_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {"0": BASE[:23]})
    with pytest.raises(Refused, match="storage '0' has 92 bytes, 24 of float32 are 96"):
        read_state(path)


def test_compressed_archives_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {"0": BASE}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(Refused, match="is compressed or encrypted"):
        read_state(path)


def test_a_compressed_storage_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", BASE.tobytes(), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(Refused, match="'archive/data/0' is compressed or encrypted"):
        read_state(path)


DIRECTORY, END = b"PK\x01\x02", b"PK\x05\x06"  # what an archive's entries, and the record after them, begin with


@pytest.mark.parametrize(
    ("record", "field", "form", "value", "message"),
    [
        (DIRECTORY, 10, "<H", 8, "'archive/data/0' is compressed or encrypted"),
        (DIRECTORY, 8, "<H", 1, "'archive/data/0' is compressed or encrypted"),
        (DIRECTORY, 20, "<I", 95, "'archive/data/0' is compressed or encrypted"),
        (DIRECTORY, 42, "<I", 5, "'archive/data/0' is not where the archive's directory says"),
        (DIRECTORY, 42, "<I", 1 << 30, "'archive/data/0' begins outside of the file"),
        (END, 16, "<I", 1 << 20, "'archive/byteorder' begins outside of the file"),
        (END, 12, "<I", 1 << 30, "is damaged or cut off"),
    ],
)
def test_a_directory_of_an_archive_that_lies_is_refused(tmp_path, record, field, form, value, message):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {"0": BASE})
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, raw.rindex(record) + field, value)  # the last entry is the storage's
    path.write_bytes(raw)
    with pytest.raises(Refused, match=message):
        read_state(path)


def test_a_storage_that_ends_behind_the_file_is_refused(tmp_path):
    state = dictionary({"w": tensor(storage("FloatStorage", "0", 1 << 29), (1 << 29,), (1,))})
    path = write_zip(tmp_path / "x.bin", state, {"0": BASE})
    raw = bytearray(path.read_bytes())
    struct.pack_into("<II", raw, raw.rindex(DIRECTORY) + 20, 1 << 31, 1 << 31)
    path.write_bytes(raw)
    with pytest.raises(Refused, match="is damaged or cut off|'archive/data/0' ends behind"):
        read_state(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {"0": BASE})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", BASE.tobytes())
    with pytest.raises(Refused, match="two members of one name"):
        read_state(path)


def test_an_archive_has_one_pickle(tmp_path):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {"0": BASE})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    with pytest.raises(Refused, match="with 2 data.pkl, not one"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"")
    with pytest.raises(Refused, match="with 0 data.pkl, not one"):
        read_state(path)


def test_a_pickle_larger_than_any_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", text("x" * MOST_PICKLE_BYTES), {})
    with pytest.raises(Refused, match="'archive/data.pkl' has 41943.. bytes, more than any weights need"):
        read_state(path)


def test_big_endian_files_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", dictionary({"w": W}), {"0": BASE}, extra={"byteorder": b"big"})
    with pytest.raises(Refused, match="not little-endian: its byte order is 'big'"):
        read_state(path)
    parts = legacy_parts(dictionary({"w": W}), ["0"])
    parts[2] = parts[2].replace(text("little_endian") + pickle.NEWTRUE, text("little_endian") + pickle.NEWFALSE)
    path.write_bytes(b"".join(parts))
    with pytest.raises(Refused, match=r"x\.bin is not little-endian"):
        read_state(path)


@pytest.mark.parametrize(
    ("keys", "count", "message"),
    [
        ([], 24, "its list of storages is not that of its tensors"),
        (["0", "0"], 24, "its list of storages"),
        (["1"], 24, "its list of storages"),
        (["0"], 23, "storage '0' is not of the size its tensors say"),
        (["0"], -1, "storage '0' is not of the size"),
    ],
)
def test_a_legacy_file_that_contradicts_itself_is_refused(tmp_path, keys, count, message):
    parts = legacy_parts(dictionary({"w": W}), keys)
    (tmp_path / "x.bin").write_bytes(b"".join(parts) + struct.pack("<q", count) + BASE.tobytes())
    with pytest.raises(Refused, match=message):
        read_state(tmp_path / "x.bin")


def test_a_legacy_file_of_other_numbers_is_refused(tmp_path):
    parts = legacy_parts(dictionary({"w": W}), ["0"])
    for index, other in ((0, 5), (1, 1002)):
        changed = [*parts[:index], PROTO + number(other) + pickle.STOP, *parts[index + 1 :]]
        (tmp_path / "x.bin").write_bytes(b"".join(changed))
        with pytest.raises(Refused, match="lacks PyTorch's magic number or protocol"):
            read_state(tmp_path / "x.bin")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, form):
    path = write_arrays(tmp_path / "x.bin", form, {"a": BASE, "b": BASE.astype(np.float16)})
    raw = path.read_bytes()
    for length in range(0, len(raw), 7):
        path.write_bytes(raw[:length])
        with pytest.raises(Refused) as refused:
            read_state(path)
        assert str(refused.value).startswith(f"{path} ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_changed_anywhere_is_read_or_refused(tmp_path, form):
    """No other exception, no crash, no large array, whatever the bytes."""
    path = write_arrays(tmp_path / "x.bin", form, {"a": BASE, "b": BASE.astype(np.float16)})
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(1500):
        changed = raw.copy()
        changed[rng.integers(raw.size, size=rng.integers(1, 4))] = rng.integers(256)
        path.write_bytes(changed.tobytes())
        try:
            assert sum(array.nbytes for array in read_all(path).values()) <= raw.size
        except Refused as error:
            assert str(path) in str(error)
            refusals += 1
    assert 300 < refusals < 1500


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.bin"):
        with pytest.raises(Refused, match="cannot be read"):
            read_state(path)


def test_other_files_are_refused(tmp_path):
    for raw in (b"", b"<!DOCTYPE html>", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"):
        (tmp_path / "x.bin").write_bytes(raw)
        with pytest.raises(Refused, match=r"x\.bin is (no file of torch.save|damaged)"):
            read_state(tmp_path / "x.bin")


# PyTorch itself.


def imported_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.mark.torch
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", FORMATS)
def test_what_pytorch_saves_is_read_bit_for_bit(tmp_path, form, protocol):
    torch = imported_torch()
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 50
    tensors = {kind: base.to(getattr(torch, kind)) for kind in kinds}
    tensors |= {"0-d": torch.tensor(1.5), "empty": torch.zeros(0, 3), "transposed": base.T, "row": base[2]}
    tensors |= {"tied": base, "block": base[1::2, ::3], "parameter": torch.nn.Parameter(base * 2), "ints": base[:, 1]}
    tensors |= {"odd strides": base[:1].expand(1, 4), "repeated": base[:1].expand(3, 4), "channels": base[None].mT}
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=form == "zip", pickle_protocol=protocol)
    read = read_all(file)
    assert list(read) == list(tensors)
    for name, tensor_ in tensors.items():
        detached = tensor_.detach().contiguous()
        assert (read[name].dtype.name, read[name].shape) == (str(detached.dtype).split(".")[1], tuple(detached.shape))
        assert read[name].tobytes() == bytes(detached.reshape(-1).view(torch.uint8).tolist())


@pytest.mark.torch
@pytest.mark.parametrize("form", FORMATS)
def test_the_state_of_a_pytorch_model_is_read(tmp_path, form):
    torch = imported_torch()
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9), torch.nn.LayerNorm(9))
    model[1].weight = model[0].weight
    file = tmp_path / "pytorch_model.bin"
    for saved in (model.state_dict(), {"epoch": 3, "model": model.state_dict()}):
        torch.save(saved, file, _use_new_zipfile_serialization=form == "zip")
        read = read_all(file)
        assert list(read) == list(model.state_dict())
        for name, tensor_ in model.state_dict().items():
            np.testing.assert_array_equal(read[name], tensor_.numpy())


@pytest.mark.torch
@pytest.mark.parametrize("form", FORMATS)
def test_pytorch_reads_what_these_tests_assemble(tmp_path, form):
    torch = imported_torch()
    arrays = arrays_of_all_kinds()
    loaded = torch.load(write_arrays(tmp_path / "x.bin", form, arrays), weights_only=True)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert bytes(loaded[name].reshape(-1).view(torch.uint8).tolist()) == array.tobytes()


@pytest.mark.torch
def test_a_whole_pytorch_module_and_a_nested_load_are_refused(tmp_path):
    torch = imported_torch()
    mark, file = tmp_path / "mark", tmp_path / "pytorch_model.bin"
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(Refused, match="asks for torch.nn.modules.linear.Linear"):
        read_state(file)
    inner = io.BytesIO()
    torch.save(Calls(os.system, shell(mark)), inner)
    payload = pickle.dumps(Calls(torch.storage._load_from_bytes, inner.getvalue()), 2)
    place(file, "zip", payload)
    with pytest.raises(Refused, match="asks for torch.storage._load_from_bytes"):
        read_state(file)
    assert not mark.exists()
    pickle.loads(payload)
    assert mark.exists()
