from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest

from topokit.tables import as_generator, check_parameters, choose, hint, listed, parameters_of


def dataset(*, data_dir, rng, path: str, scale: float = 1.0, header: bool = True):
    return path, scale, header


def everything(
    plain=None,
    *args,
    whole: int = 1,
    number: float = 1.0,
    choice: Literal["a", 3] = "a",
    maybe: int | None = None,
    either: Union[int, str] = 0,  # noqa: UP007
    old: Optional[bool] = None,  # noqa: UP045
    numbers: Sequence[float] = (),
    pair: tuple[int, ...] = (),
    bare: list = (),
    mapping: Mapping[str, int] | None = None,
    anything: Any = None,
):
    return locals()


@pytest.mark.parametrize(
    ("name", "good", "bad", "words"),
    [
        ("whole", [0, -3], [1.0, True, "1", [1]], "int"),
        ("number", [0, 1.5], [False, "1"], "float"),
        ("choice", ["a", 3], ["b", 4, True], "'a' or 3"),
        ("maybe", [1], [1.5, "x"], "int"),
        ("either", [1, "x"], [1.5, True], "int or str"),
        ("old", [True], [0], "bool"),
        ("numbers", [[1, 2.5], []], [["a"], 1.0, "12"], "a list of float"),
        ("pair", [[1, 2]], [[1.5], 3], "a list of int"),
        ("bare", [[1, "a"]], [3, "ab"], "list"),
        ("mapping", [{"a": 1}], [[1]], "Mapping"),
        ("anything", [1, "a", [2]], [], ""),
        ("plain", [1, "a"], [], ""),
    ],
)
def test_types_are_checked(name, good, bad, words):
    for value in good:
        check_parameters("rule", "x", everything, {name: value}, section="rule")
    for value in bad:
        with pytest.raises(ValueError) as caught:
            check_parameters("rule", "x", everything, {name: value}, section="rule")
        assert str(caught.value).startswith(f"rule.{name}: expected {words}")


def test_unresolvable_annotations_are_not_checked():
    def rule(*, n: "NotThere" = 1):  # noqa: F821
        return n

    check_parameters("rule", "x", rule, {"n": "whatever"}, section="rule")


def test_hint_and_listed():
    assert hint("Katzz", ["set", "katz"]) == "did you mean 'katz'? "
    assert hint("zzz", ["set", "katz"]) == ""
    assert listed(["b", "a"]) == "a, b"


def test_choose_reports_empty_tables_and_odd_names():
    with pytest.raises(ValueError, match=r"^unknown rule 'set'; rules: none$"):
        choose("rule", "set", {})
    with pytest.raises(ValueError, match=r"unknown rule \['set'\]"):
        choose("rule", ["set"], {"set": 1})


def test_parameters_of_leaves_out_what_the_caller_supplies():
    assert list(parameters_of(dataset)) == ["path", "scale", "header"]
    assert parameters_of(dataset)["scale"].annotation is float
    assert "args" not in parameters_of(everything)


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), np.uint8(7), np.int32(0), 2**70])
def test_integers_seed_a_generator(seed):
    assert as_generator(seed).random() == np.random.default_rng(int(seed)).random()


def test_a_generator_is_returned_as_it_is():
    rng = np.random.default_rng(0)
    assert as_generator(rng) is rng


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "None"),
        (True, "True"),
        (np.True_, "bool"),
        (1.0, "float"),
        ("0", "str"),
        (np.random.RandomState(0), "RandomState"),
    ],
)
def test_what_is_no_random_stream_is_refused(given, words):
    expected = (
        f"expected rng to be a numpy.random.Generator or an integer seed such as 0, got {words}"
    )
    with pytest.raises(TypeError) as caught:
        as_generator(given)
    assert str(caught.value) == expected


def test_a_negative_seed_is_refused_by_its_argument():
    with pytest.raises(
        ValueError, match="expected seed to be an integer seed of at least 0, got -1"
    ):
        as_generator(np.int64(-1), "seed")
