import json
import math
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from deberta_jax.errors import Failed, Refused
from deberta_jax.train.logger import JsonLines, Loggers, Progress, TensorBoard
from limits import files_no_larger_than


def write_steps(path, first, last, start):
    logger = JsonLines(path, start)
    for step in range(first, last + 1):
        logger.scalars(step, {"loss": 10 / step, "tokens": 100 * step})
        if step % 2 == 0:
            logger.scalars(step, {"eval/loss": 11 / step})
    logger.close()


def test_every_line_is_an_object_with_its_step(tmp_path):
    logger = JsonLines(tmp_path / "metrics.jsonl", 0)
    logger.scalars(1, {"loss": np.float32(0.5), "tokens": 128})
    logger.text(1, "samples", "Paris\nRome")
    logger.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5, "tokens": 128}, {"step": 1, "samples": "Paris\nRome"}]


def test_a_line_can_be_read_as_soon_as_it_is_logged(tmp_path):
    logger = JsonLines(tmp_path / "metrics.jsonl", 0)
    logger.scalars(1, {"loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'
    logger.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_json_does_not_have_is_null(tmp_path, value):
    logger = JsonLines(tmp_path / "metrics.jsonl", 0)
    logger.scalars(1, {"loss": value})
    logger.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null}\n'


@pytest.mark.parametrize("half_line", ["", '{"step": 8, "lo', '{"step": 8}'])
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path, half_line):
    write_steps(tmp_path / "whole.jsonl", 1, 9, start=0)
    write_steps(tmp_path / "resumed.jsonl", 1, 7, start=0)  # dies after step 7, its newest checkpoint is of step 4
    with (tmp_path / "resumed.jsonl").open("a") as file:
        file.write(half_line)
    write_steps(tmp_path / "resumed.jsonl", 5, 9, start=4)
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.jsonl", "whole.jsonl"]


def test_a_run_that_died_before_its_first_checkpoint_starts_its_file_afresh(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "eval/loss": 9.0}\n{"step": 1, "loss": 9.0}\n')
    JsonLines(path, 0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("line", ["loss 3", '{"loss": 3}', "3"])
def test_a_foreign_line_is_refused_with_its_number_and_nothing_is_lost(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(Refused, match=r"metrics\.jsonl line 2"):
        JsonLines(path, 1)
    assert path.read_text() == f'{{"step": 1}}\n{line}\n'


def events(directory) -> list[Event]:
    """All events below `directory`: each is framed as a 64-bit length, a checksum, the bytes and their checksum."""
    found = []
    for path in sorted(directory.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_gets_every_number_and_text(tmp_path):
    logger = TensorBoard(tmp_path, 0)
    logger.scalars(3, {"loss": 0.5, "eval/loss": 0.25})
    logger.text(3, "samples", "Paris\nRome")
    logger.close()
    values = {value.tag: (event.step, value) for event in events(tmp_path) for value in event.summary.value}
    assert values["loss"][0] == 3 and values["loss"][1].simple_value == 0.5
    assert values["eval/loss"][1].simple_value == 0.25
    assert values["samples/text_summary"][1].tensor.string_val == [b"    Paris\n    Rome"]


@pytest.mark.parametrize(("start", "hidden_from"), [(0, []), (4, [5])])
def test_tensorboard_hides_what_is_done_again(tmp_path, start, hidden_from):
    logger = TensorBoard(tmp_path, start)
    logger.scalars(start + 1, {"loss": 0.5})
    logger.close()
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == hidden_from


@pytest.mark.parametrize("logger", [JsonLines, TensorBoard])
def test_a_full_disk_is_one_failure_that_names_the_file_and_nobody_waits(logger, tmp_path):
    logger = logger(tmp_path / "log", 0)
    with files_no_larger_than(1 << 18):
        with pytest.raises(Failed, match="/log cannot be written: File too large"):
            for step in range(1000):  # more than fit in any queue
                logger.text(step, "samples", "Paris" * 200)
        with pytest.raises(Failed, match="/log cannot be written: File too large"):
            logger.close()


def test_the_bar_starts_where_the_run_does_and_shows_the_newest_numbers(capsys):
    bar = Progress(10, 4)
    bar.scalars(5, {"loss": 7.25, "gradient_norm": 3.0})
    bar.scalars(6, {"loss": 6.5})
    bar.scalars(6, {"eval/loss": 6.75})
    bar.close()
    shown = capsys.readouterr().err.split("\r")
    assert "4/10" in shown[1]
    assert "6/10" in shown[-1] and "loss=6.5, eval/loss=6.75" in shown[-1] and "gradient_norm" not in shown[-1]


def test_text_is_written_beside_the_bar_not_to_standard_output(capsys):
    bar = Progress(10, 0)
    bar.text(5, "samples", "Paris\nRome")
    bar.close()
    written = capsys.readouterr()
    assert "samples at step 5:\nParis\nRome\n" in written.err and written.out == ""


class Recorder:
    def __init__(self, fails=False):
        self.calls = []
        self.fails = fails

    def scalars(self, step, values):
        self.calls.append((step, values))

    def text(self, step, name, text):
        self.calls.append((step, name, text))

    def close(self):
        self.calls.append("closed")
        if self.fails:
            raise OSError("disk full")


def test_loggers_pass_everything_to_each():
    one, two = Recorder(), Recorder()
    loggers = Loggers([one, two])
    loggers.scalars(1, {"loss": 2.0})
    loggers.text(1, "samples", "Paris")
    loggers.close()
    assert one.calls == two.calls == [(1, {"loss": 2.0}), (1, "samples", "Paris"), "closed"]


def test_loggers_close_the_others_when_one_fails():
    recorders = [Recorder(), Recorder(fails=True), Recorder()]
    with pytest.raises(OSError, match="disk full"):
        Loggers(recorders).close()
    assert all(recorder.calls == ["closed"] for recorder in recorders)
