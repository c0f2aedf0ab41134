"""The prepare command: same bytes whatever happens to it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from deberta_jax.data.prepared import Manifest, decode_rows, read_manifest, verify_shards
from deberta_jax.data.units import is_held_out
from deberta_jax.errors import Failed, Refused
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tools import prepare

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two text files of 100 + 200 documents."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n\n".join(documents[:100]), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(documents[100:]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def flags(corpus: Path, spm_dir: Path) -> Callable[..., list[str]]:
    """The command line for an output directory; later flags win over earlier ones."""

    def of(output: Path, *more: str) -> list[str]:
        fixed = ["--length=64", "--holdout=10%", "--unit_mb=0.05", "--processes=2"]
        return [f"--input={corpus}/*.txt", f"--tokenizer={spm_dir}", *fixed, f"--output={output}", *more]

    return of


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> Path:
    """The corpus, prepared in one go by two processes."""
    output = tmp_path_factory.mktemp("whole") / "prepared"
    prepare.main(flags(output))
    return output


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in files}


def rows_of(manifest: Manifest, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    readers = [ArrayRecordReader(str(path)) for path in manifest.shard_paths(split)]
    records = [record for reader in readers for record in reader.read_all()]
    return list(zip(*decode_rows(records, manifest.length, manifest.id_dtype), strict=True))


def test_the_manifest_counts_what_the_shards_hold(whole, documents, spm_dir):
    manifest, tokenizer = read_manifest(whole), load_tokenizer(spm_dir)
    verify_shards(manifest, ["train", "holdout"])
    assert len(manifest.splits["train"].shards) > 3  # there is something to distribute
    ids = {}
    for name, held_out in (("train", False), ("holdout", True)):
        texts = [text for text in documents if is_held_out(text, 0.1) == held_out]
        rows = rows_of(manifest, name)
        ids[name] = np.concatenate([ids_l[documents_l > 0] for ids_l, documents_l in rows])
        plain = [i for i in ids[name].tolist() if i not in (tokenizer.cls_id, tokenizer.sep_id)]
        assert plain == [i for text in texts for i in tokenizer.ids(text)]
        split = manifest.splits[name]
        assert (split.rows, split.tokens, split.documents) == (len(rows), len(ids[name]), len(texts))
    counts = np.bincount(ids["train"], minlength=tokenizer.size)
    counts[list(tokenizer.special_ids)] = 0
    assert manifest.top_id == counts.argmax()
    assert manifest.max_id == max(ids["train"].max(), ids["holdout"].max())
    assert (
        load_tokenizer(manifest.tokenizer_path).fingerprint == manifest.tokenizer_fingerprint == tokenizer.fingerprint
    )


def test_no_file_holds_a_path_of_this_machine(whole, corpus, spm_dir):
    for name, content in contents(whole).items():
        for path in (str(corpus), str(spm_dir), str(whole)):
            assert path.encode() not in content, name


def test_bytes_do_not_depend_on_the_number_of_processes(whole, flags, tmp_path):
    prepare.main(flags(tmp_path / "p", "--processes=1"))
    assert contents(tmp_path / "p") == contents(whole)


def test_bytes_do_not_depend_on_how_the_input_is_stored(whole, flags, corpus, tmp_path):
    (tmp_path / "*.txt").mkdir()  # the manifest names the input by its last part
    for name in ("a.txt", "b.txt"):
        shutil.copy(corpus / name, tmp_path / "*.txt" / name)
    shards = contents(whole)
    prepare.main(flags(tmp_path / "p", f"--input={tmp_path}/[*].txt/?.txt"))
    copied = contents(tmp_path / "p")
    assert copied.keys() == shards.keys()
    assert all(copied[name] == shards[name] for name in shards if name.endswith(".array_record"))


def test_running_again_does_nothing_and_keeps_every_byte(whole, flags, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "p")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "p").glob("*.array_record")}
    prepare.main(flags(tmp_path / "p"))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "p").glob("*.array_record")} == before
    assert contents(tmp_path / "p") == contents(whole)
    captured = capsys.readouterr()
    assert re.search(r"\d+ rows, [\d,]+ tokens, \d+ documents in train; .* MB in .* MB/s$", captured.out.strip())
    assert "prepare: 100%" in captured.err


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.two_process
def test_killed_half_way_and_run_again_it_ends_with_the_same_bytes(documents, spm_dir, tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(f"{i} {text}" for i in range(8) for text in documents))
    flags = [f"--input={tmp_path}/long.txt", f"--tokenizer={spm_dir}", "--length=64", "--unit_mb=0.05"]
    killed, fresh = tmp_path / "killed", tmp_path / "fresh"
    prepare.main([*flags, f"--output={fresh}", "--processes=2"])
    command = [sys.executable, "-m", "deberta_jax.tools.prepare", *flags, f"--output={killed}", "--processes=1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(killed.glob("units/*.json"))) >= 3)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_alive, workers)))
    assert workers and not (killed / "manifest.json").exists()
    done = {p: p.stat().st_mtime_ns for p in killed.glob("units/*.json")}
    assert 3 <= len(done) < len(list(fresh.glob("units/*.json")))

    (killed / "train-99999.array_record.tmp").write_bytes(b"half a shard")
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert {p: p.stat().st_mtime_ns for p in done} == done  # not made twice
    assert contents(killed) == contents(fresh)


@pytest.mark.two_process
def test_ctrl_c_ends_with_one_line_and_exit_code_75(documents, spm_dir, tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(f"{i} {text}" for i in range(300) for text in documents))
    flags = [f"--input={tmp_path}/long.txt", f"--tokenizer={spm_dir}", "--length=64", "--unit_mb=0.05"]
    command = [sys.executable, "-m", "deberta_jax.tools.prepare", *flags, f"--output={tmp_path}/p", "--processes=2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(list(tmp_path.glob("p/units/*.json"))) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # a terminal interrupts the whole group
    error = process.communicate()[1]
    assert process.returncode == 75
    assert error.strip().splitlines()[-1] == "stopped: interrupted; run the same command again to go on"
    assert "Traceback" not in error


def test_a_damaged_shard_is_made_again(whole, flags, tmp_path):
    shutil.copytree(whole, tmp_path / "p")
    shards = sorted((tmp_path / "p").glob("*.array_record"))
    shards[0].unlink()
    content = bytearray(shards[2].read_bytes())
    content[100] ^= 1
    shards[2].write_bytes(content)
    prepare.main(flags(tmp_path / "p"))
    assert contents(tmp_path / "p") == contents(whole)


def test_a_changed_input_leaves_nothing_of_the_former_one(whole, flags, corpus, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(corpus / "a.txt", folder / "a.txt")
    prepare.main(flags(tmp_path / "fresh", f"--input={folder}/*.txt"))
    shutil.copytree(whole, tmp_path / "p")
    prepare.main(flags(tmp_path / "p", f"--input={folder}/*.txt"))
    assert contents(tmp_path / "p") == contents(tmp_path / "fresh")


def test_two_machines_cover_the_corpus_exactly_once(whole, flags, tmp_path):
    parts = [tmp_path / "first", tmp_path / "second"]
    for index, part in enumerate(parts):
        prepare.main(flags(part, f"--shard={index}/2"))
        verify_shards(read_manifest(part), ["train", "holdout"])
    first, second, both = (
        {name: content for name, content in contents(p).items() if name.endswith(".array_record")}
        for p in (*parts, whole)
    )
    assert first and second and not first.keys() & second.keys()
    assert first | second == both
    for split, total in read_manifest(whole).splits.items():
        found = [read_manifest(part).splits[split] for part in parts]
        for field in ("rows", "tokens", "documents"):
            assert sum(getattr(s, field) for s in found) == getattr(total, field)


def test_the_held_out_documents_do_not_depend_on_units_or_length(whole, flags, tmp_path):
    prepare.main(flags(tmp_path / "p", "--unit_mb=1", "--length=128"))
    assert len(read_manifest(tmp_path / "p").splits["holdout"].shards) == 1
    tokens = []
    for directory in (whole, tmp_path / "p"):
        rows = rows_of(read_manifest(directory), "holdout")
        tokens.append([i for ids_l, documents_l in rows for i in ids_l[documents_l > 0].tolist() if i > 2])
    assert tokens[0] == tokens[1]


def test_the_built_in_text_is_held_out_by_file(spm_dir, tmp_path):
    argv = ["--input=builtin", f"--tokenizer={spm_dir}", "--length=128", "--processes=1", f"--output={tmp_path}/p"]
    prepare.main([*argv, "--holdout=0.05"])
    splits = read_manifest(tmp_path / "p").splits
    assert 0.01 < splits["holdout"].documents / splits["train"].documents < 0.15
    assert splits["train"].tokens > 300_000


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--length=128", r"holds rows of another length \(64, now 128\): choose another --output"),
        ("--holdout=20%", r"holds rows of another holdout \(0\.1, now 0\.2\)"),
        ("--unit_mb=1", "holds rows of another unit_chars"),
        ("--shard=0/2", "holds rows of another shard"),
        ("--input=builtin", "holds rows of another input"),
    ],
)
def test_rows_of_other_settings_are_refused_and_left_alone(whole, flags, flag, message):
    before = contents(whole)
    with pytest.raises(Refused, match=message):
        prepare.main(flags(whole, flag))
    assert contents(whole) == before


def test_rows_of_another_tokenizer_are_refused(whole, flags, documents, tmp_path):
    from deberta_jax.tokenizers.train import train_unigram

    model = train_unigram(documents, vocab_size=300, byte_fallback=False, character_coverage=1.0, max_sentences=0)
    (tmp_path / "spm.model").write_bytes(model)
    with pytest.raises(Refused, match="holds rows of another tokenizer"):
        prepare.main(flags(whole, f"--tokenizer={tmp_path}"))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--input=nothing/*.txt", "matches no file"),
        ("--input=gs://bucket/*.txt", r"--input: gs://bucket/\*\.txt is a bucket, this must be files: mount it"),
        ("--output=gs://bucket/rows", "argument --output: gs://bucket/rows is a bucket, this must be files: mount it"),
        ("--tokenizer=gs://bucket/spm", "argument --tokenizer: gs://bucket/spm is a bucket, this must be files"),
        ("--tokenizer=nowhere", "no tokenizer: nowhere does not exist"),
        ("--lenght=64", "did you mean '--length'"),
        ("--length=4", r"must lie in \[8, 65536\)"),
        ("--holdout=150%", "must be a share between 0 and 1"),
        ("--holdout=few", "argument --holdout"),
        ("--shard=2/2", "counts i from 0 to n-1"),
        ("--shard=1", "argument --shard"),
        ("--processes=0", "must be positive"),
        ("--unit_mb=0", "must be positive"),
        ("--unit_mb=inf", "argument --unit_mb: expects a finite number, got 'inf'"),
        ("--unit_mb=nan", "argument --unit_mb: expects a finite number, got 'nan'"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_written(flags, tmp_path, flag, message):
    with pytest.raises(Refused, match=message):
        prepare.main(flags(tmp_path / "p", flag))
    assert not (tmp_path / "p").exists()


def test_an_empty_corpus_is_refused_before_anything_is_written(flags, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(Refused, match="holds no text"):
        prepare.main(flags(tmp_path / "p", f"--input={tmp_path}/blank.txt"))
    assert not (tmp_path / "p").exists()


def test_directories_that_are_not_ours_are_refused(flags, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(Refused, match="is not empty and no prepared directory"):
        prepare.main(flags(tmp_path))
    with pytest.raises(Refused, match="cannot be written"):
        prepare.main(flags(tmp_path / "thesis.tex" / "p"))
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


def test_more_machines_than_units_are_refused(flags, tmp_path):
    with pytest.raises(Refused, match=r"--shard=7/8: the input has fewer units"):
        prepare.main(flags(tmp_path / "p", "--shard=7/8", "--unit_mb=1"))


def test_a_shard_that_cannot_be_written_fails_by_name(flags, tmp_path):
    (tmp_path / "p").mkdir()
    prepare.main(flags(tmp_path / "p", "--processes=1"))
    shard = tmp_path / "p" / "train-00001.array_record"
    shard.unlink()
    shard.mkdir()  # whoever runs the tests, a file cannot take a directory's name
    with pytest.raises(Failed, match="unit 1 could not be written"):
        prepare.main(flags(tmp_path / "p"))
    assert not (tmp_path / "p" / "manifest.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.two_process
def test_memory_does_not_grow_with_the_corpus(documents, spm_dir, tmp_path):
    program = (
        "import resource, sys\nfrom deberta_jax.tools import prepare\nprepare.main(sys.argv[1:])\n"
        "own = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print('peak', int(own.split()[1]) // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
    )
    peaks = []
    for copies in (6, 180):  # a loaded machine moves a peak by up to 7 MB, whatever the corpus
        file = tmp_path / f"{copies}.txt"
        file.write_text("\n\n".join(f"{i} {text}" for i in range(copies) for text in documents))
        flags = [f"--input={file}", f"--tokenizer={spm_dir}", "--length=128", "--unit_mb=0.3", "--processes=1"]
        command = [sys.executable, "-c", program, *flags, f"--output={tmp_path}/{copies}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        peaks.append([int(word) for word in out.split("peak")[1].split()])
    size = (tmp_path / "180.txt").stat().st_size / 2**20
    assert size > 30
    for small, large in zip(*peaks, strict=True):
        assert large - small < size / 3, peaks
