import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import topokit
from topokit.classifier import SparseMLPClassifier
from topokit.graph import same_edges
from topokit.rules import RULES

TINY = {"hidden_layer_sizes": (20,), "max_iter": 8, "batch_size": 16, "random_state": 0}


@parametrize_with_checks(
    [
        SparseMLPClassifier(**TINY),
        SparseMLPClassifier((), density=0.7, rule="static", max_iter=8, batch_size=16),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:400] / 16, y[:400]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_fits(rule, digits):
    x, y = digits
    model = SparseMLPClassifier((30, 20), rule=rule, max_iter=3, random_state=1).fit(x, y)
    assert model.predict(x).shape == y.shape
    assert model.history_.epochs["train_loss"].notna().all()


def test_names_of_classes_and_of_columns(digits):
    x, y = digits
    names = np.array(["zero", "one", "many"], dtype=object)[np.minimum(y, 2)]
    frame = pd.DataFrame(x, columns=[f"pixel{i}" for i in range(64)])
    model = SparseMLPClassifier((50,), max_iter=15, random_state=0).fit(frame, names)
    assert list(model.classes_) == ["many", "one", "zero"]
    assert model.score(frame, names) > 0.95
    assert model.feature_names_in_[3] == "pixel3"
    np.testing.assert_allclose(model.predict_proba(frame).sum(axis=1), 1)


def test_a_seed_decides_everything_and_set_moves_what_static_keeps(digits):
    x, y = digits
    model = SparseMLPClassifier((40,), epsilon=3, dropout=0.2, max_iter=4, random_state=3)
    first, again = clone(model).fit(x, y), clone(model).fit(x, y)
    static = clone(model).set_params(rule="static").fit(x, y)
    np.testing.assert_array_equal(first.predict_proba(x), again.predict_proba(x))
    start, end = first.history_.topology(0), first.history_.topology(-1)
    assert not same_edges(start["fc1"], end["fc1"])
    assert same_edges(start["fc1"], static.topology_["fc1"])
    losses = (fit.history_.epochs["train_loss"] for fit in (first, static))
    assert len({loss.iloc[0] for loss in losses}) == 1
    assert start["fc1"].n_edges == end["fc1"].n_edges == 3 * (64 + 40)


def test_history_holds_what_was_asked_for(digits):
    x, y = digits
    model = SparseMLPClassifier(
        (20,), max_iter=6, record_every=4, measures=["fan_in", "turnover"], random_state=0
    )
    history = model.fit(x, y).history_
    assert history.recorded == [0, 4, 5]
    assert history.epochs["epoch"].tolist() == list(range(6))
    assert set(history.measures["epoch"]) == {0, 4, 5}
    assert "turnover" in set(history.measures["measure"])
    with pytest.raises(ValueError, match=r"epoch 1 was not recorded; recorded: \[0, 4, 5\]"):
        history.topology(1)


def test_works_in_pipelines_and_searches(digits):
    x, y = digits
    pipe = make_pipeline(StandardScaler(), SparseMLPClassifier((40,), max_iter=12, random_state=0))
    assert cross_val_score(pipe, x, y, cv=2).min() > 0.7
    search = GridSearchCV(pipe, {"sparsemlpclassifier__rule": ["set", "static"]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.7
    assert topokit.SparseMLPClassifier is SparseMLPClassifier


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "sett"}, "unknown rule 'sett'; did you mean 'set'"),
        ({"rule_params": {"inti": "zeros"}}, "unknown key 'rule_params.inti'; did you mean 'init'"),
        ({"schedule": "wave"}, "unknown drop-fraction schedule 'wave'"),
        ({"max_iter": 0}, "max_iter: expected a positive number, got 0"),
        ({"every": 0}, 'every: expected "epoch" or a positive number of steps, got 0'),
        (
            {"hidden_layer_sizes": (3, 0)},
            "hidden_layer_sizes: expected positive whole numbers",
        ),
        ({"hidden_layer_sizes": 0}, "hidden_layer_sizes: expected positive whole numbers, got 0"),
        ({"hidden_layer_sizes": "20"}, "expected positive whole numbers, got '20'"),
        ({"hidden_layer_sizes": 20.5}, "expected positive whole numbers, got 20.5"),
        ({"hidden_layer_sizes": (20, True)}, "hidden_layer_sizes: expected positive whole"),
        ({"drop_fraction": 2}, "drop_fraction: expected a number from 0 to 1, got 2"),
        ({"density": 3}, "density"),
        ({"generator": "erdos"}, "unknown generator 'erdos'"),
        ({"activation": "tanh"}, "activation of relu"),
    ],
)
def test_invalid_parameters_are_refused_by_fit(params, message, digits):
    with pytest.raises(ValueError, match=message):
        SparseMLPClassifier(**{**TINY, **params}).fit(*digits)


def test_one_number_is_one_hidden_layer(digits):
    one, listed = (SparseMLPClassifier(**{**TINY, "hidden_layer_sizes": n}) for n in (20, [20]))
    assert one.fit(*digits).topology_["fc1"].n_out == 20
    assert (one.predict(digits[0]) == listed.fit(*digits).predict(digits[0])).all()
