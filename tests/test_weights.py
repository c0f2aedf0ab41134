"""Weight files of others: what the libraries write is read, what is written they read, and what lies is refused."""

import json
import os
import struct
import tracemalloc
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from deberta_jax.convert.weights import DTYPES, open_weights, write_weights
from deberta_jax.errors import Failed, Refused
from test_torch_pickle import write_arrays

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)


def arrays_of_all_kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: (rng.normal(size=(3, 5)) * 50).astype(dtype) for name, dtype in DTYPES.items() if name[0] != "U"}
    arrays |= {name: rng.integers(0, 256, (3, 5)).astype(dtype) for name, dtype in DTYPES.items() if name[0] == "U"}
    return arrays | {"0-d": np.array(-1.5, np.float32), "empty": np.empty((0, 7), np.float16), "ü\n": A}


def assert_same(read: np.ndarray, array: np.ndarray) -> None:
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert read.tobytes() == array.tobytes()


def entry(begin: int, end: int, shape: list, dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_raw(path: Path, header: object, data: bytes) -> Path:
    """A safetensors file of any header, JSON when it is not bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_shards(directory: Path, shards: dict[str, dict[str, np.ndarray]], weight_map: dict, index: str) -> None:
    for file, arrays in shards.items():
        if file.endswith(".bin"):
            write_arrays(directory / file, "zip", arrays)
        else:
            safetensors.numpy.save_file(arrays, directory / file)
    (directory / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def refusal(directory: Path) -> str:
    with pytest.raises(Refused) as refused:
        open_weights(directory)
    assert "\n" not in str(refused.value)
    assert str(directory) in str(refused.value)
    return str(refused.value)


# Reading.


def test_what_the_safetensors_library_writes_is_read_bit_for_bit(tmp_path):
    arrays = arrays_of_all_kinds()
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = open_weights(tmp_path)
    assert weights.files == (tmp_path / "model.safetensors",)
    assert weights.keys() == arrays.keys()
    assert weights.shapes_and_dtypes() == {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    for name, array in arrays.items():
        assert_same(weights[name], array)


def test_a_name_that_is_not_there_is_no_tensor(tmp_path):
    write_weights(tmp_path / "model.safetensors", {"a": A})
    weights = open_weights(tmp_path)
    assert "b" not in weights and weights.get("b") is None
    with pytest.raises(KeyError, match="b"):
        weights["b"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_tensor_is_read_when_it_is_asked_for(tmp_path, name):
    """A file of 6 GB, nearly all of it a hole: opening and listing it costs nothing, a look-up only its tensor."""
    big, count = np.zeros((1 << 20,), np.float32), 1500
    header = {f"w{i}": entry(i * big.nbytes, (i + 1) * big.nbytes, [big.size]) for i in range(count)}
    if name == "model.safetensors":
        path = write_raw(tmp_path / name, header, b"")
        os.truncate(path, path.stat().st_size + count * big.nbytes)
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(np.float32(3).tobytes())
        last = f"w{count - 1}"
    else:
        write_arrays(tmp_path / name, "zip", {"w0": big, "w1": big + 3})
        count, last = 2, "w1"
    tracemalloc.start()
    weights = open_weights(tmp_path)
    assert len(weights.shapes_and_dtypes()) == len(list(weights)) == count and last in weights
    assert tracemalloc.get_traced_memory()[1] < big.nbytes
    assert weights[last][-1] == 3
    assert tracemalloc.get_traced_memory()[1] < 2 * big.nbytes
    tracemalloc.stop()


def test_look_ups_read_anew(tmp_path):
    write_weights(tmp_path / "model.safetensors", {"a": A})
    weights = open_weights(tmp_path)
    weights["a"][:] = 7  # memory of its own: neither the file nor the next look-up sees it
    assert_same(weights["a"], A)
    os.truncate(tmp_path / "model.safetensors", (tmp_path / "model.safetensors").stat().st_size - 1)
    with pytest.raises(Refused, match="model.safetensors was cut off while it was being read"):
        weights["a"]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_as_one(tmp_path, suffix):
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    files = [f"{stem}-0000{n}-of-00002.{suffix}" for n in (1, 2)]
    shards = {files[0]: {"a": A, "c": A + 1}, files[1]: {"b": B}}
    write_shards(tmp_path, shards, {"b": files[1], "a": files[0], "c": files[0]}, f"{stem}.{suffix}.index.json")
    weights = open_weights(tmp_path)
    assert weights.files == tuple(tmp_path / file for file in files)
    assert weights.keys() == {"a", "b", "c"}
    for arrays in shards.values():
        for name, array in arrays.items():
            assert_same(weights[name], array)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], "model.safetensors"),
        (["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.generator.bin"], "pytorch_model.bin"),
        (["pytorch_model.bin", "pytorch.model.bin"], "pytorch_model.bin"),
        (["pytorch.model.bin", "pytorch.model-000500.bin"], "pytorch.model.bin"),
        (["pytorch.model-000500.bin", "config.json", "spm.model"], "pytorch.model-000500.bin"),
    ],
)
def test_of_several_files_the_usual_one_is_read(tmp_path, names, chosen):
    for name in names:
        (tmp_path / name).write_text("{}")
    if chosen.endswith(".bin"):
        write_arrays(tmp_path / chosen, "legacy", {"a": A})
    else:
        safetensors.numpy.save_file({"a": A}, tmp_path / chosen)
    weights = open_weights(tmp_path)
    assert weights.files == (tmp_path / chosen,)
    assert_same(weights["a"], A)


# Refusing.


def test_a_directory_without_weights_is_told_with_what_it_has(tmp_path):
    assert "has no weights: it has nothing, none of model.safetensors, model" in refusal(tmp_path)
    for name in ("config.json", "spm.model"):
        (tmp_path / name).touch()
    assert "it has config.json, spm.model, none of" in refusal(tmp_path)
    assert "convert" not in refusal(tmp_path)
    for name in ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index"):
        (tmp_path / name).touch()
    hint = (
        "; flax_model.msgpack, model.ckpt.index, tf_model.h5 must first be converted to safetensors with transformers"
    )
    assert refusal(tmp_path).endswith(hint)
    for n in range(20):
        (tmp_path / f"z{n}").touch()
    assert "spm.model, tf_model.h5, z0, z1, z10 and 17 more" in refusal(tmp_path)


def test_a_directory_that_does_not_exist_is_told_with_the_nearest(tmp_path):
    (tmp_path / "deberta-v3-base").mkdir()
    assert refusal(tmp_path / "deberta-v3-bose").endswith("does not exist, did you mean 'deberta-v3-base'?")
    (tmp_path / "file").touch()
    assert "cannot be read: " in refusal(tmp_path / "file")


def test_two_steps_of_a_training_are_ambiguous(tmp_path):
    for step in (500, 1000):
        (tmp_path / f"pytorch.model-{step}.bin").touch()
    assert "(pytorch.model-1000.bin, pytorch.model-500.bin)" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_what_cannot_be_opened_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    assert refusal(tmp_path) == f"{tmp_path / name} cannot be read: Is a directory"
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to(tmp_path / "blobs" / "0")  # a cache of which the half was copied
    assert refusal(tmp_path) == f"{tmp_path / name} cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_a_pointer_of_git_is_told_as_such(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 371146213\n")
    assert refusal(tmp_path) == f"{tmp_path / name} is a Git LFS pointer, not the weights: run git lfs pull there"


HEADERS = {  # header, data, message
    "not JSON": (b"{nonsense", b"", "its JSON is damaged: Expecting property name"),
    "not UTF-8": (b"\xff\xfe{}", b"", "its JSON is damaged: 'utf-8' codec"),
    "deep": (b"[" * 100_000, b"", "its JSON is damaged: maximum recursion depth"),
    "a list": ([1], b"", "its JSON is no object"),
    "twice": (b'{"a":{"dtype":"F32"},"a":{}}', b"", "its JSON is damaged: it has 'a' twice"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, b"", "'a' is not described by dtype"),
    "no object": ({"a": 3}, b"", "'a' is not described by dtype"),
    "more": ({"a": {**entry(0, 4, [1]), "x": 1}}, bytes(4), "'a' is not described by dtype"),
    "float8": ({"a": entry(0, 1, [1], "F8_E4M3")}, bytes(1), "'a' has dtype 'F8_E4M3'; known are F64, F32"),
    "dtype list": ({"a": entry(0, 1, [1], ["F32"])}, bytes(1), "'a' has dtype .*; known are"),
    "shape no list": ({"a": entry(0, 4, "1")}, bytes(4), "'a' has an impossible shape"),
    "negative shape": ({"a": entry(0, 4, [-1, -1])}, bytes(4), "'a' has an impossible shape"),
    "shape of bools": ({"a": entry(0, 4, [True])}, bytes(4), "'a' has an impossible shape"),
    "shape of floats": ({"a": entry(0, 4, [1.0])}, bytes(4), "'a' has an impossible shape"),
    "huge shape": ({"a": entry(0, 0, [0, 1 << 60])}, b"", "'a' has an impossible shape"),
    "huge numbers": ({"a": entry(0, 0, [0, 1 << 9000])}, b"", "'a' has an impossible shape"),
    "negative offset": ({"a": entry(-4, 0, [1])}, bytes(4), "'a' has impossible data_offsets"),
    "huge offset": ({"a": entry(0, 10**4200, [1])}, bytes(4), "'a' has impossible data_offsets"),
    "one offset": ({"a": {**entry(0, 4, [1]), "data_offsets": [0]}}, bytes(4), "'a' has impossible data_offsets"),
    "wrong count": ({"a": entry(0, 8, [1])}, bytes(8), r"'a' has 8 bytes, F32 of shape \[1\] needs 4"),
    "backwards": ({"a": entry(4, 0, [1])}, bytes(4), r"'a' has -4 bytes, F32 of shape \[1\] needs 4"),
    "outside": ({"a": entry(0, 8, [2])}, bytes(7), "is cut off: tensor 'a' ends at byte 8 of its data, which has 7"),
    "overlap": ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12), "'b' overlaps the one before it"),
    "same place": ({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, bytes(8), "'b' overlaps the one before it"),
    "hole": ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12), "a hole of 4 bytes before tensor 'b'"),
    "hole at first": ({"a": entry(4, 8, [1])}, bytes(8), "a hole of 4 bytes before tensor 'a'"),
    "more data": ({"a": entry(0, 4, [1])}, bytes(5), "has 1 bytes behind its last tensor"),
}


READ_BY_THE_LIBRARY = ("more", "float8", "huge shape")  # or it fails otherwise


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, name):
    header, data, message = HEADERS[name]
    path = write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(Refused, match=message) as refused:
        open_weights(tmp_path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    if name not in READ_BY_THE_LIBRARY:
        with pytest.raises((safetensors.SafetensorError, ValueError, KeyError, TypeError)):
            safetensors.numpy.load_file(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": A, "b": B})
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert "is cut off" in refusal(tmp_path)
    path.write_bytes(struct.pack("<Q", 1 << 63) + raw[8:])
    assert "is cut off or no safetensors file" in refusal(tmp_path)


def test_a_file_changed_anywhere_is_read_or_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": A, "b": B})
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(1500):
        changed = raw.copy()
        changed[rng.integers(raw.size, size=rng.integers(1, 4))] = rng.integers(256)
        path.write_bytes(changed.tobytes())
        try:
            assert sum(array.nbytes for array in open_weights(tmp_path).values()) <= raw.size
        except Refused as error:
            assert str(path) in str(error)
            refusals += 1
    assert 300 < refusals < 1500


@pytest.mark.parametrize(
    ("shards", "weight_map", "message"),
    [
        ({"1": {"a": A}}, {"a": "1", "b": "2"}, "names the shard '2', which is not in its directory"),
        ({"1": {"a": A}}, {"a": "../1"}, "names the shard '../1', which is not in its directory"),
        ({"1": {"a": A}}, {"a": "1", "b": "1"}, "/1 lacks 'b', which model.safetensors.index.json says it holds"),
        ({"1": {"a": A}, "2": {"b": A}}, {"a": "2", "b": "1"}, "/1 lacks 'b', which model.safetensors.index.json"),
        ({"1": {"a": A}, "2": {"a": A, "b": A}}, {"a": "1", "b": "2"}, "'a' is in two shards, 1 and 2"),
        ({"1": {"a": A, "b": A}}, {"a": "1"}, "does not know 'b', which its shard 1 holds"),
        ({}, {"a": 3}, "the file of 'a' is no name"),
        ({}, {}, "has no weight_map"),
        ({}, None, "has no weight_map"),
    ],
)
def test_an_index_and_shards_that_disagree_are_refused(tmp_path, shards, weight_map, message):
    write_shards(tmp_path, shards, weight_map, "model.safetensors.index.json")
    said = refusal(tmp_path)
    assert message in said


def test_an_index_that_is_damaged_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1", "a": "2"}}')
    assert "model.safetensors.index.json: its JSON is damaged: it has 'a' twice" in refusal(tmp_path)


def test_a_malicious_pickle_is_refused_where_it_lies(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(Vtouch {mark}\ntR.".encode())
    assert "/pytorch_model.bin asks for os.system: only tensors are read; nothing was executed" in refusal(tmp_path)
    assert not mark.exists()


# Writing.


def test_what_is_written_the_library_reads(tmp_path):
    arrays = arrays_of_all_kinds()
    write_weights(tmp_path / "model.safetensors", arrays)
    read = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same(read[name], array)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_it_is_the_file_that_the_library_writes(tmp_path):
    """Byte for byte: so also the order of the tensors, which aligns each, and that of the header."""
    arrays = {
        "b": A,
        "a": A.astype(np.float16),
        "d": A.astype(np.int64),
        "c": A + 1,
        "e": A[:0],
        "0": np.array(A[0, 1]),
    }
    write_weights(tmp_path / "ours", arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_arrays_are_written_as_they_read_not_as_they_lie(tmp_path):
    """Kernels of Linen are the transposes of PyTorch's; the library would write their memory untransposed."""
    arrays = {"transposed": A.T, "stepped": A[::2, 1:], "backwards": A[::-1], "repeated": np.broadcast_to(A[0], (5, 4))}
    write_weights(tmp_path / "model.safetensors", arrays)
    weights = open_weights(tmp_path)
    for name, array in arrays.items():
        assert_same(weights[name], np.ascontiguousarray(array))


def test_weights_may_be_written_from_weights(tmp_path):
    write_arrays(tmp_path / "pytorch_model.bin", "zip", {"a": A, "b": B})
    write_weights(tmp_path / "model.safetensors", open_weights(tmp_path))
    weights = open_weights(tmp_path)
    assert weights.files == (tmp_path / "model.safetensors",)
    assert_same(weights["a"], A)
    assert_same(weights["b"], B)


def test_writing_takes_the_memory_of_one_tensor(tmp_path):
    arrays = {f"w{n}": np.zeros((1000, 500), np.float32).T for n in range(20)}
    one = arrays["w0"].nbytes
    tracemalloc.start()
    write_weights(tmp_path / "model.safetensors", arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * one


class LostAtTheLast(dict):
    """Tensors of which each can be had once, as of a file that is cut off between the two look-ups."""

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name)
        self[name] = None
        if array is None:
            raise Refused(f"{name} was cut off")
        return array


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": A})
    with pytest.raises(Refused, match="a was cut off"):
        write_weights(path, LostAtTheLast({"a": A + 1}))
    assert_same(open_weights(tmp_path)["a"], A)
    assert os.listdir(tmp_path) == [path.name]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    for directory, why in (("missing", "No such file or directory"), ("file", "Not a directory")):
        with pytest.raises(Failed, match=f"{directory}/model.safetensors cannot be written: {why}"):
            write_weights(tmp_path / directory / "model.safetensors", {"a": A})


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("a", np.zeros(3, np.complex64)),
        ("a", np.zeros(3, ml_dtypes.float8_e4m3fn)),
        ("a", np.zeros(3, ">f4")),
        ("a", np.array(["x"])),
        ("__metadata__", A),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, name, array):
    with pytest.raises(Refused, match=f"cannot write '{name}' of dtype"):
        write_weights(tmp_path / "model.safetensors", {name: array})
    assert os.listdir(tmp_path) == []


# PyTorch and transformers themselves.


@pytest.mark.torch
def test_transformers_loads_what_is_written_and_what_it_saves_is_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        config = transformers.DebertaV2Config(
            hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=20
        )
        model = transformers.DebertaV2Model(config).eval()
        model.save_pretrained(tmp_path)
        expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        weights = open_weights(tmp_path)
        for name, array in weights.items():
            assert_same(array, expected[name])
        changed = {name: array + 1 for name, array in weights.items()}
        write_weights(tmp_path / "model.safetensors", changed)
        loaded = transformers.DebertaV2Model.from_pretrained(tmp_path).state_dict()
    for name, array in changed.items():
        assert_same(loaded[name].numpy(), array)
    write_weights(tmp_path / "b.safetensors", {"b": B})
    of_torch = pytest.importorskip("safetensors.torch").load_file(tmp_path / "b.safetensors")
    assert torch.equal(of_torch["b"], torch.arange(6).reshape(2, 3).bfloat16())
