"""The figures of made-up results: what stands where, and that a PNG is made of each file."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import figures
from benchmarks.figures import Results
from deberta_jax.errors import Refused

SETTING = {"device": "abacus", "cores": 2, "packages": {"jax": "0.10", "numpy": "2"}}


def attention_row(name, length, forward, temp, **more):
    row = {"attention": name, "rows": 512 // length, "length": length, "heads": 12, "dtype": "float32", "rate": 0.1}
    return row | {"forward ms": forward, "with gradients ms": 3 * forward, "temp MB": temp} | more


def attention():
    rows = [attention_row(name, length, length / 16, 7.0) for name in ("blockwise", "plain") for length in (128, 256)]
    too_large = attention_row("reference", 256, 1.0, 5000.0, **{"not run": "needs 5 GB"})
    del too_large["forward ms"], too_large["with gradients ms"]
    rows += [attention_row("reference", 128, 4.0, 900.0), too_large]
    return {"setting": SETTING, "rows": [*rows, {"attention": "tpu", "not run": "this is an abacus"}]}


def compilation():
    layouts = [("scanned", "none"), ("unrolled", "none")]
    rows = [
        {"layers": depth, "laid out": laid_out, "remat": remat, "together s": depth / 2, "temp MB": 8.0 * depth}
        for laid_out, remat in layouts
        for depth in (4, 12)
    ]
    return {"setting": SETTING, "rows": rows}


def train_step():
    rows = [
        {
            "size": "tiny",
            "layers": 2,
            "rows": 8,
            "length": 128,
            "dtype": "float32",
            "step of": name,
            "times ours": times,
        }
        for name, times in (("ours", 1.0), ("plain", 0.5), ("stock", 2.5))
    ]
    return {"setting": SETTING, "rows": rows}


def points(axes):
    return {each.get_label(): np.stack(each.get_data(), axis=1) for each in axes.lines}


def test_attention_has_a_line_for_what_ran_and_memory_of_what_did_not():
    forward, both, memory = map(points, figures.draw_attention(Results(**attention())).axes)
    assert forward.keys() == both.keys() == memory.keys() == {"reference", "blockwise", "plain"}
    np.testing.assert_allclose(forward["blockwise"], [[128, 8e-3 / 512], [256, 16e-3 / 512]])
    np.testing.assert_allclose(both["reference"], [[128, 12e-3 / 512]])
    np.testing.assert_allclose(memory["reference"], [[128, 9e8 / 512], [256, 5e9 / 512]])


def test_compilation_is_drawn_against_depth_from_zero():
    drawn = figures.draw_compile(Results(**compilation()))
    seconds, memory = map(points, drawn.axes)
    assert seconds.keys() == memory.keys() == {"scanned, remat none", "unrolled, remat none"}
    np.testing.assert_allclose(seconds["unrolled, remat none"], [[4, 2], [12, 6]])
    assert all(axes.get_ylim()[0] == 0 for axes in drawn.axes)


def test_a_step_is_a_bar():
    [axes] = figures.draw_train_step(Results(**train_step())).axes
    assert [bar.get_height() for bar in axes.patches] == [1.0, 0.5, 2.5]
    assert "abacus" in axes.get_title("left")


def test_a_picture_of_each_file(tmp_path):
    files = {"attention_x": attention(), "compile_x": compilation(), "train_step_x": train_step(), "input": {}}
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    figures.main([f"--results={tmp_path}", f"--output={tmp_path / 'png'}"])
    pictures = sorted((tmp_path / "png").iterdir())
    assert [path.name for path in pictures] == ["attention_x.png", "compile_x.png", "train_step_x.png"]
    assert all(imread(path)[..., :3].min() < 0.5 for path in pictures)


def test_a_directory_without_results_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"holds none of attention\*\.json"):
        figures.main([f"--results={tmp_path}", f"--output={tmp_path / 'png'}"])
    assert not (tmp_path / "png").exists()
