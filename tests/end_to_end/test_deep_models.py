"""Models whose layers are no chain of widths: trained, recorded, resumed, drawn."""

import numpy as np
import pytest
import torch

from tests.end_to_end.test_resume import Stop, assert_same_run, stop_after
from topokit import plots
from topokit.cli import main
from topokit.experiments.config import RunConfig, load_recipe
from topokit.experiments.runs import check, resume, run

TINY = {
    "resnet20_cifar10": ["data.name=digits", "data.augment=crop_flip", "model.image=[1,8,8]",
                         "model.depth=8", "model.channels=[4,6,8]"],
    "wrn22_2_cifar10": ["data.name=digits", "data.augment=crop_flip", "model.image=[1,8,8]",
                        "model.depth=10", "model.widen=1", "rule.every=2"],
    "gpt_text": ["data.n_train=60", "data.n_test=20", "batch_size=20", "data.length=16",
                 "model.context=16", "model.width=16", "model.blocks=2"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def tiny(recipe, *more):
    settings = [*TINY[recipe], "epochs=2", "threads=1"]
    if "data.name=digits" in settings:
        settings += ["data.n_train=100", "data.n_test=60", "batch_size=40"]
    return load_recipe(recipe).override([*settings, *more])


@pytest.mark.parametrize("recipe", TINY)
@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, recipe):
    config = tiny(recipe, "model.dropout=0.1")
    whole = run(config, tmp_path / "whole")
    with pytest.raises(Stop):
        run(config, tmp_path / "run", progress=stop_after(0))
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert whole.recorded == [0, 1]
    first, last = whole.topology(0), whole.topology(1)
    moved = [n for n in first if not np.array_equal(first[n].edge_ids, last[n].edge_ids)]
    full = [n for n in first if first[n].n_edges == first[n].n_possible]
    assert set(moved) | set(full) == set(first)
    assert {n: g.n_edges for n, g in first.items()} == {n: g.n_edges for n, g in last.items()}
    assert RunConfig.from_toml(config.to_toml()) == config
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    means = [key for key in saved if key.endswith("running_mean")]
    assert len(means) > 5 or recipe == "gpt_text"
    assert all(saved[key].abs().sum() > 0 for key in means)


def test_augmentation_changes_training_alone(tmp_path):
    from topokit.experiments.preparation import prepare_run

    values = tiny("resnet20_cifar10").to_dict()
    augmented = RunConfig.from_dict(values)
    del values["data"]["augment"]
    configs = [RunConfig.from_dict(values), augmented]
    parts = [prepare_run(config, None) for config in configs]
    assert np.array_equal(parts[0].data.x_train, parts[1].data.x_train)
    assert np.array_equal(parts[0].data.x_test, parts[1].data.x_test)
    histories = [run(config, tmp_path / str(i)) for i, config in enumerate(configs)]
    a, b = (history.epochs["train_loss"][0] for history in histories)
    assert a != b


def test_commands_take_a_run_of_many_layers(tmp_path, capsys):
    path = str(tmp_path / "run")
    settings = [word for setting in TINY["resnet20_cifar10"] for word in ("--set", setting)]
    more = ["data.n_train=60", "data.n_test=40", "epochs=2", "threads=1"]
    settings += [word for setting in more for word in ("--set", setting)]
    assert main(["train", "resnet20_cifar10", "--out", path, *settings]) == 0
    capsys.readouterr()
    assert main(["analyze", path]) == 0
    assert "stage3.block1.conv2" in capsys.readouterr().out
    assert main(["verify", path]) == 0
    assert main(["list", "models"]) == 0
    assert "wide_resnet" in capsys.readouterr().out


def test_a_transformer_has_no_measures_of_a_chain(tmp_path):
    whole = run(
        tiny("gpt_text", "measures.chosen=['active_flow','network_spectral_gap']"), tmp_path
    )
    rows = whole.measures[whole.measures["layer"] == "network"]
    assert len(rows) > 1
    assert rows["value"].isna().all()
    with pytest.raises(ValueError, match=r"q_proj and block1\.attention\.k_proj read the"):
        run(tiny("gpt_text", "rule.name=path_weight"), tmp_path / "other")


def test_batch_norm_is_for_one_process():
    from topokit.experiments.loop import _draw_apart
    from topokit.experiments.preparation import first_topology, prepare_run
    from topokit.experiments.runs import _build

    class Two:
        size, rank, first = 2, 0, True

    config = tiny("resnet20_cifar10")
    parts = prepare_run(config, None)
    state = _build(config, first_topology(config, parts), parts, torch.device("cpu"))
    with pytest.raises(ValueError, match="expected one process for a model with batch norm"):
        _draw_apart(state, Two())


@pytest.mark.slow
def test_a_report_shows_every_layer(tmp_path, monkeypatch):
    monkeypatch.setattr("topokit.plots.report.DPI", 20)
    monkeypatch.setattr("topokit.plots.report.LAYERS", 2)  # the degrees of all have one function
    run(tiny("resnet20_cifar10"), tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert "stage3.block1.conv2" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_a_transformer_is_drawn(tmp_path, monkeypatch):
    save = plots.save_axes
    monkeypatch.setattr(
        plots, "save_axes", lambda ax, path, **options: save(ax, path, **options | {"dpi": 20})
    )
    run(tiny("gpt_text", "model.blocks=1"), tmp_path / "run")
    assert main(["plot", str(tmp_path / "run"), "--out", str(tmp_path / "figures")]) == 0
    assert any("v_proj" in path.name for path in (tmp_path / "figures").iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.image=[3,32,32]"], r"use --set model.image=\[1,8,8\]"),
        (["model.classes=7"], "use --set model.classes=10"),
        (["model.widths=[64,10]"], "the layers of 'resnet' follow from its other parameters"),
        (["model.width=3"], "unknown key 'model.width'|unknown parameter"),
        (["topology.densities=[0.1,0.2]"], "expected one density for each of 7 layers, got 2"),
        (["topology.generator=snip"], "expected a generator for model 'resnet', got 'snip'"),
        (["model.name=set_mlp"], "missing key 'model.widths'"),
        (["data.augment=crop"], "unknown augmentation 'crop'|expected one of|data.augment"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_work(settings, words):
    with pytest.raises(ValueError, match=words):
        check(tiny("resnet20_cifar10", *settings))


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("gpt_text", ["data.name=digits", "model.vocabulary=10", "model.context=64"]),
        ("set_mlp_digits", ["data.name=text", "model.widths=[64,20,97]"]),
        ("set_rbm_mnist", ["data.name=text", "model.widths=[64,20]"]),
        ("resnet20_cifar10", ["data.name=text", "model.image=[1,8,8]", "model.classes=97"]),
    ],
)
def test_a_text_is_for_a_language_model_alone(recipe, settings):
    with pytest.raises(ValueError, match="which is not what model"):
        check(load_recipe(recipe).override(settings))


def test_loss_and_accuracy_of_a_text_are_means_over_characters(tmp_path):
    from topokit.data import load_data
    from topokit.experiments.samples import Samples, evaluate

    class Next(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(x.long() + 1, 97).transpose(1, 2).float()

    x = np.tile(np.arange(8, dtype=np.float32), (3, 1))
    y = np.tile(np.arange(1, 9), (3, 1))
    y[0, :4] = 0
    loss, accuracy = evaluate(Next(), Samples(x, y))
    assert accuracy == 20 / 24
    right, wrong = np.log(96 + np.e) - 1, np.log(96 + np.e)
    assert loss == pytest.approx((20 * right + 4 * wrong) / 24, rel=1e-5)
    assert load_data("text", rng=0).n_classes == 97


def test_a_mlp_becomes_a_resnet_by_its_name():
    config = load_recipe("set_mlp_digits").override(["model.name=resnet", "model.image=[1,8,8]"])
    assert config.model.widths == ()
    check(config)
