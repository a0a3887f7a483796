import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

import topokit
from topokit.estimators import SparseMLPClassifier, SparseMLPRegressor
from topokit.graph import same_edges
from topokit.rules import RULES

TINY = {"hidden_layer_sizes": (20,), "max_iter": 8, "batch_size": 16, "random_state": 0}
WEIGHTS = "a copy of a sample may come in another batch than the first; equal with one batch: below"
FAST = (
    "check_fit2d_1sample", "check_dict_unchanged", "check_estimators_pickle",
    "check_sample_weights_shape", "check_n_features_in_after_fitting",
    "check_classifiers_one_label", "check_regressors_int", "check_f_contiguous_array_estimator",
    "check_fit_score_takes_y", "check_requires_y_none", "check_positive_only_tag_during_fit",
)  # fmt: skip


def unequal(estimator):
    return {
        f"check_sample_weight_equivalence_on_{kind}_data": WEIGHTS for kind in ("dense", "sparse")
    }


ESTIMATORS = [
    SparseMLPClassifier(**TINY),
    SparseMLPClassifier((), density=0.7, rule="static", max_iter=8, batch_size=16),
    SparseMLPRegressor(**{**TINY, "max_iter": 10, "learning_rate": 0.03}),
]


@pytest.mark.slow
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=unequal)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("which", [0, 2], ids=["classifier", "regressor"])
def test_some_of_scikit_learns_own_checks(which, name):
    estimator = ESTIMATORS[which]
    found = [
        (made, check)
        for made, check in estimator_checks_generator(estimator)
        if check.func.__name__ == name
    ]
    kind = {"check_classifiers_one_label": 0, "check_regressors_int": 2}.get(name, which)
    assert found or kind != which
    for made, check in found:
        check(made)


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


def test_read_only_samples(digits):
    x, y = (np.array(part[:200], np.float32) for part in digits)
    model = SparseMLPClassifier((20,), max_iter=2, random_state=0)
    expected = model.fit(x, y).predict_proba(x)
    x.flags.writeable = y.flags.writeable = False
    torch.set_warn_always(True)  # by default torch warns once in a process
    try:
        assert np.array_equal(model.fit(x, y).predict_proba(x), expected)
    finally:
        torch.set_warn_always(False)


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
        ({"max_iter": 0}, "max_iter: expected a positive whole number, got 0"),
        ({"max_iter": 2.5}, "max_iter: expected a positive whole number, got 2.5"),
        ({"batch_size": True}, "batch_size: expected a positive whole number, got True"),
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


@pytest.fixture(scope="module")
def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return x * 20, y


def made(kind, digits, diabetes, **params):
    """An estimator, and data for it."""
    if kind == "classifier":
        return SparseMLPClassifier(**{**TINY, **params}), *digits
    return SparseMLPRegressor(**{**TINY, **params}), *diabetes


def outputs(model, x):
    return model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x)


KINDS = pytest.mark.parametrize("kind", ["classifier", "regressor"])


def test_a_regressor_predicts_in_the_units_of_y_and_better_than_its_mean(diabetes):
    x, y = diabetes
    model = SparseMLPRegressor((50,), max_iter=25, random_state=0).fit(x[:300], y[:300])
    assert model.score(x[300:], y[300:]) > 0.9 * Ridge().fit(x[:300], y[:300]).score(
        x[300:], y[300:]
    )
    last = model.history_.epochs.iloc[-1]
    assert last["train_r2"] == pytest.approx(model.score(x[:300], y[:300]), rel=1e-4)
    other = clone(model).fit(x[:300], 1000 * y[:300] - 7)
    np.testing.assert_allclose(other.predict(x), 1000 * model.predict(x) - 7, rtol=1e-3)


def test_a_regressor_predicts_several_numbers_and_constants(diabetes):
    x, y = diabetes
    several = np.stack([y, -y, np.full_like(y, 3.3)], axis=1)
    model = SparseMLPRegressor(**TINY).fit(x, several)
    assert model.predict(x).shape == several.shape
    assert model.topology_["fc2"].n_out == 3
    np.testing.assert_allclose(model.predict(x)[:, 2], 3.3, atol=0.5)
    assert SparseMLPRegressor(**TINY).fit(x, several[:, :1]).predict(x).shape == (len(x), 1)
    with pytest.raises(ValueError, match="y: expected 3 numbers for each sample, got 1"):
        model.partial_fit(x, y)


@KINDS
def test_whole_weights_are_copies_and_weight_0_is_left_out(kind, digits, diabetes):
    model, x, y = made(kind, digits, diabetes, batch_size=10**6)
    x, y = x[:60], y[:60]
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = clone(model).fit(x, y, sample_weight=weights)
    copies = clone(model).fit(np.repeat(x, weights, axis=0), np.repeat(y, weights))
    alike = clone(model).fit(x, y)
    scale = np.abs(outputs(copies, x)).max()
    assert np.abs(outputs(weighted, x) - outputs(copies, x)).max() < 1e-3 * scale
    assert np.abs(outputs(alike, x) - outputs(copies, x)).max() > 1e-2 * scale
    doubled = clone(model).fit(x, y, sample_weight=np.full(len(y), 2.0))
    np.testing.assert_allclose(outputs(doubled, x), outputs(alike, x), rtol=1e-5)
    for wrong in (np.zeros(len(y)), -np.ones(len(y))):
        with pytest.raises(ValueError, match=r"(?i)sample.weight"):
            clone(model).fit(x, y, sample_weight=wrong)


@KINDS
@pytest.mark.parametrize("rule", ["set", "ctre_sim", "rigl"])
def test_sparse_samples_are_learned_as_dense_ones(kind, rule, digits, diabetes):
    model, x, y = made(kind, digits, diabetes, rule=rule, max_iter=3)
    x = np.where(x > 0.1, x, 0)
    dense = clone(model).fit(x, y)
    for layout in (sp.csr_array, sp.csc_matrix, sp.coo_array):
        sparse = clone(model).fit(layout(x), y)
        np.testing.assert_array_equal(outputs(sparse, layout(x)), outputs(dense, x))


@KINDS
def test_parts_are_learned_one_after_the_other(kind, digits, diabetes):
    model, x, y = made(kind, digits, diabetes)
    more = {"classes": np.unique(y)} if kind == "classifier" else {}
    model.partial_fit(x[:200], y[:200], **more)
    start = model.topology_
    for _ in range(6):
        model.partial_fit(x[:200], y[:200]).partial_fit(x[200:], y[200:])
    assert model.n_iter_ == 13
    assert len(model.history_.epochs) == 13
    assert not same_edges(start["fc1"], model.topology_["fc1"])
    assert same_edges(model.topology_["fc1"], model.history_.topology(-1)["fc1"])
    assert model.score(x, y) > (0.9 if kind == "classifier" else 0.4)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        copied.partial_fit(x, y)
        before = outputs(model, x)
        again = clone(model)
        assert copied.n_iter_ == 14
        assert not np.array_equal(outputs(copied, x), before)
        assert not hasattr(again, "model_")
    first, second = (pickle.loads(pickle.dumps(model)).partial_fit(x, y) for _ in range(2))
    np.testing.assert_array_equal(outputs(first, x), outputs(second, x))


@KINDS
def test_a_part_goes_on_after_fit(kind, digits, diabetes):
    model, x, y = made(kind, digits, diabetes, dropout=0.1, max_iter=4)
    model.fit(x, y)
    before, seen = outputs(model, x), model.topology_
    model.partial_fit(x, y)
    assert model.n_iter_ == 5
    assert same_edges(seen["fc1"], model.topology_["fc1"])
    assert not np.array_equal(before, outputs(model, x))


@KINDS
def test_what_decays_per_step_still_does_in_a_copy(kind, digits, diabetes):
    model, x, y = made(
        kind, digits, diabetes, decay_per_step=0.05, weight_decay=0, rule="static", max_iter=2
    )
    model.fit(x, y)
    twin, without = pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
    without.set_params(decay_per_step=0.0).partial_fit(x, y)
    expected = outputs(model.partial_fit(x, y), x)
    np.testing.assert_array_equal(outputs(twin.partial_fit(x, y), x), expected)
    assert not np.allclose(outputs(without, x), expected)


@KINDS
def test_early_stopping_keeps_the_best_epoch(kind, digits, diabetes):
    model, x, y = made(
        kind, digits, diabetes, max_iter=200, early_stopping=True, n_iter_no_change=4, tol=0.0
    )
    model.fit(x, y)
    scores = model.history_.epochs[f"validation_{'accuracy' if kind == 'classifier' else 'r2'}"]
    assert model.n_iter_ == len(scores) < 200
    assert scores.idxmax() == model.best_epoch_ == model.n_iter_ - 5
    assert same_edges(model.topology_["fc1"], model.history_.topology(model.best_epoch_)["fc1"])
    assert model.score(x, y) >= 0.3
    with pytest.raises(ValueError, match="kept the model of the best epoch"):
        model.set_params(early_stopping=False).partial_fit(x, y)


@KINDS
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"early_stopping": True}, "early_stopping: expected False in partial_fit"),
        ({"schedule": "cosine"}, "schedule 'cosine': partial_fit has no last epoch"),
        ({"stop": 3}, "stop=3: partial_fit has no last epoch"),
    ],
)
def test_what_has_no_meaning_in_parts_is_refused(kind, params, message, digits, diabetes):
    model, x, y = made(kind, digits, diabetes, **params)
    more = {"classes": np.unique(y)} if kind == "classifier" else {}
    with pytest.raises(ValueError, match=message):
        model.partial_fit(x, y, **more)


def test_classes_of_parts_are_known_from_the_first_on(digits):
    x, y = digits
    model = SparseMLPClassifier(**TINY)
    with pytest.raises(ValueError, match="classes: expected all classes in the first partial_fit"):
        model.partial_fit(x, y)
    model.partial_fit(x[y < 3], y[y < 3], classes=range(5))
    assert model.predict_proba(x).shape[1] == 5
    with pytest.raises(ValueError, match=r"y: expected labels of \[0 1 2 3 4\], got .*5"):
        model.partial_fit(x, y)
    with pytest.raises(ValueError, match="classes: expected those of the first call"):
        model.partial_fit(x[y < 3], y[y < 3], classes=[0, 1])


@KINDS
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"validation_fraction": 1.0},
            "validation_fraction: expected a number above 0 and below 1",
        ),
        ({"validation_fraction": 1e-9}, None),
        ({"n_iter_no_change": 0}, "n_iter_no_change: expected a positive whole number"),
    ],
)
def test_wrong_settings_of_early_stopping_are_refused(kind, params, message, digits, diabetes):
    model, x, y = made(kind, digits, diabetes, early_stopping=True, **params)
    if message is None and kind == "regressor":
        pytest.skip("one sample can be held out of numbers")
    with pytest.raises(ValueError, match=message or "early_stopping: no samples to hold out"):
        model.fit(x, y)


@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
def test_options_set_between_partial_fits_hold(kind):
    X, y = load_digits(return_X_y=True)
    X, y = X[:100] / 16, y[:100]
    start = {"classes": range(10)} if kind is SparseMLPClassifier else {}
    one = kind(**{**TINY, "batch_size": 100}, rule="static", momentum=0.0, learning_rate=0.1)
    one.partial_fit(X, y, **start)
    before = one.model_.fc1.values.detach().clone()
    heavy, pushed = copy.deepcopy(one), copy.deepcopy(one)
    one.partial_fit(X, y)
    heavy.set_params(weight_decay=0.5).partial_fit(X, y)
    plain, decayed = (each.model_.fc1.values.detach() for each in (one, heavy))
    torch.testing.assert_close(plain - decayed, 0.1 * (0.5 - 1e-4) * before)
    pushed.set_params(momentum=0.5).partial_fit(X, y)
    pushed.partial_fit(X, y)
    one.partial_fit(X, y)
    assert not torch.equal(pushed.model_.fc1.values, one.model_.fc1.values)


@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_layer_sizes": (7,)}, {"density": 0.4}, {"epsilon": 3.0}, {"dropout": 0.5},
        {"activation": "srelu"}, {"generator": "expander"}, {"densities": "erk"},
    ],
)  # fmt: skip
def test_another_network_cannot_be_asked_of_partial_fit(kind, changed):
    X, y = load_digits(return_X_y=True)
    X, y = X[:60] / 16, y[:60]
    model = kind(**TINY).fit(X, y)
    (name,) = changed
    model.set_params(**changed)
    with pytest.raises(ValueError, match=f"{name}: expected .* of which the network is, or a new"):
        model.partial_fit(X, y)
    model.set_params(**{name: clone(kind(**TINY)).get_params()[name]})
    model.partial_fit(X, y)
    pickle.loads(pickle.dumps(model)).partial_fit(X, y)
