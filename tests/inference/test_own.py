"""A user's own program and data: what is read, under which names, and one sentence for everything that cannot be."""

import json

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Normal

from inference.cli.own import arguments, is_program, load_object, read_data, settle
from inference.errors import RunError

PROGRAM = """
import pyro
from pyro.distributions import Normal
WIDTH = 2.0

def model(y, group, J=3, scale=1.0):
    a = pyro.sample("a", Normal(0.0, WIDTH).expand([J]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", Normal(a[group], scale), obs=y)

def wrong(y):
    return y.no_such_thing
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "mine.py").write_text(PROGRAM)
    return f"{tmp_path / 'mine.py'}:model"


def test_a_program_is_a_file_and_a_name(program, tmp_path):
    assert (
        is_program(program) and is_program("a/b.py") and not is_program("eight_schools") and not is_program("runs/py")
    )
    assert load_object(program).__name__ == "model"
    for target, says in (
        (f"{tmp_path / 'mine.py'}", "names no object: write FILE.py:NAME"),
        (f"{tmp_path / 'mine.py'}:", "names no object"),
        (f"{tmp_path / 'other.py'}:model", "there is no file"),
        (f"{tmp_path / 'mine.py'}:modle", "has no 'modle': it has .*model, wrong"),
    ):
        with pytest.raises(RunError, match=says):
            load_object(target)
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(RunError, match=r"cannot be imported, ZeroDivisionError: .* \(line 2 of broken.py\)"):
        load_object(f"{tmp_path / 'broken.py'}:model")


def test_json_csv_and_npz_hold_the_same_data(tmp_path):
    (tmp_path / "d.json").write_text(
        json.dumps({"J": 3, "y": [1.5, 2, 3], "group": [0, 1, 2], "X": [[1, 2], [3, 4], [5, 6]]})
    )
    (tmp_path / "d.csv").write_text("y, group,X.1,X.2,note\n1.5,0,1,2,a\n2,1,3,4,b\n3,2,5,6,c\n")
    np.savez(tmp_path / "d.npz", y=[1.5, 2, 3], group=[0, 1, 2], X=[[1, 2], [3, 4], [5, 6]], J=3)

    def wanted(y, group, X, J=3):  # noqa: N803
        pass

    for name in ("d.json", "d.csv", "d.npz"):
        found = arguments(wanted, read_data(tmp_path / name), "mine")
        assert list(found)[:3] == ["y", "group", "X"] and found.get("J", 3) == 3
        assert found["y"].tolist() == [1.5, 2.0, 3.0] and found["X"].tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("names", [["x[1]", "x[2]"], ["x.1", "x.2"], ["x_2", "x_1"], ["x1", "x2"]])
def test_numbered_columns_stand_side_by_side(names):
    table = {name: np.full(3, int(name.strip("x.[]_"))) for name in names} | {"x10b": np.zeros(3)}
    assert arguments(lambda x: None, table, "mine")["x"].tolist() == [[1, 2]] * 3


def test_whole_numbers_are_floats_unless_the_model_indexes_with_them(program):
    model = load_object(program)
    named = arguments(model, {"y": np.array([1, 2]), "group": np.array([0, 2]), "J": 3, "more": 1}, "mine")
    y, group, j = settle(model, named, "mine")
    assert y.dtype == torch.float32 and group.dtype == torch.int64 and j == 3


def test_a_default_between_two_keys_is_put_in(program):
    model = load_object(program)
    assert arguments(model, {"y": np.ones(2), "group": np.zeros(2), "scale": 2.0}, "mine")["J"] == 3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"y": np.ones(2)}, "mine needs 'group', and the data have y: add it"),
        ({"y": np.ones(2), "group": np.array(["a", "b"])}, "'group' is not made of numbers"),
        ({"y": np.array([1.0, np.nan]), "group": np.zeros(2)}, "'y' has missing or infinite values"),
    ],
)
def test_arguments_that_the_data_lack(program, table, says):
    with pytest.raises(RunError, match=says):
        arguments(load_object(program), table, "mine")


def test_a_failing_program_is_a_line(program):
    wrong = load_object(program.replace(":model", ":wrong"))
    with pytest.raises(RunError, match=r"mine fails on the data, AttributeError: .* \(line 12 of mine.py\)"):
        settle(wrong, {"y": np.ones(2)}, "mine")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("d.txt", "1", "is none of .json, .csv, .npz"),
        ("none.csv", None, "there is no file"),
        ("d.json", "[1, 2]", "is no JSON object"),
        ("d.json", "{", "cannot be read"),
        ("d.json", "{}", "holds no data"),
        ("d.json", '{"x": [[1, 2], [3]]}', "rows of different lengths"),
        ("d.csv", "x,y\n", "no rows below its header"),
        ("d.csv", "x,y\n1,2\n1\n", "row 3 of .* has 1 fields, the header 2"),
        ("d.npz", "no zip", "cannot be read"),
    ],
)
def test_data_that_cannot_be_read(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=says):
        read_data(tmp_path / name)


def test_probing_leaves_the_random_numbers_alone():
    def model(y):
        pyro.sample("y", Normal(pyro.sample("m", Normal(0.0, 1.0)), 1.0), obs=y)

    before = torch.get_rng_state()
    settle(model, {"y": np.array([1, 2])}, "mine")
    assert torch.equal(before, torch.get_rng_state())
