from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import pytest

from topokit.tables import check_parameters, choose, hint, listed, parameters_of


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
