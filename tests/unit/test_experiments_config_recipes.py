"""Every shipped recipe is complete, honest about its source, and readable."""

import itertools
import tomllib

import numpy as np
import pytest

from topokit.data import DATASETS
from topokit.experiments.config import RECIPES, RunConfig, load_recipe
from topokit.experiments.preparation import resolve
from topokit.generators import GENERATORS, generate_layers
from topokit.generators.density import layer_densities, shapes_of
from topokit.graph import LayerGraph
from topokit.nn.models import LAYERS, MODELS, inputs_of, layers_for
from topokit.rules import RULES

FEATURES = {
    "digits": 64, "mnist": 784, "fashion_mnist": 784, "cifar10": 3072, "madelon": 500,
    "pcmac": 3289, "basehock": 4862, "mushrooms": 112, "text": 64,
}  # fmt: skip
CLASSES = {"cifar10": 10, "text": 97}


@pytest.mark.parametrize("name", RECIPES)
class TestEachRecipe:
    def test_says_what_it_is(self, name):
        text = RECIPES[name].read_text(encoding="utf-8")
        assert text.startswith("# ")
        about = tomllib.loads(text)["about"]
        assert set(about) == {"title", "description", "paper", "differences"}
        assert all(len(words) > 10 for words in about.values())

    def test_states_the_scale_of_its_initial_weights(self, name):
        config = load_recipe(name)
        assert {"init", "deviation"} & set(config.model.params)
        differences = config.about["differences"]
        assert "initial" in differences or differences.startswith("Those of set_")

    def test_survives_a_round_trip(self, name):
        config = load_recipe(name)
        assert RunConfig.from_toml(config.to_toml()) == config

    def test_fits_the_tables(self, name):
        config = load_recipe(name)
        tables = {"data": DATASETS, "model": MODELS, "topology": GENERATORS, "rule": RULES}
        assert resolve(config, tables) is config

    def test_builds_its_rule_and_a_small_model(self, name):
        config, rng = load_recipe(name), np.random.default_rng(0)
        RULES[config.rule.name](**config.rule.params)
        n_features = config.data.params.get("n_features") or FEATURES[config.data.name]
        if config.model.name in LAYERS:
            shapes = layers_for(
                config.model.name, n_features=n_features, n_classes=CLASSES[config.data.name],
                **config.model.params,
            )  # fmt: skip
            shares = {"density": config.topology.density, "densities": config.topology.densities}
            topology = generate_layers(shapes, config.topology.generator, **shares, rng=rng)
            MODELS[config.model.name](topology, rng=rng, **config.model.params)
            return
        n_in = inputs_of(config.model.name, n_features, **config.model.params)
        assert config.model.widths[0] == n_in
        topology = {"fc1": LayerGraph.from_edge_ids([0, 3], (2, n_in))}
        MODELS[config.model.name](topology, rng=rng, **config.model.params)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("static_")])
def test_static_twins_differ_in_the_rule_alone(name):
    static, moving = (load_recipe(n).to_dict() for n in (name, name.replace("static_", "set_")))
    assert static["rule"]["name"] == "static"
    assert moving["rule"]["name"] == "set"
    for config in (static, moving):
        del config["about"]
        config["rule"] = {"drop_fraction": config["rule"]["drop_fraction"]}
    assert static == moving


def test_the_recipes_are_there():
    expected = {"set_mlp_digits", "set_mlp_mnist", "static_mlp_digits", "static_mlp_mnist"}
    assert expected <= set(RECIPES)


@pytest.mark.parametrize(
    ("name", "edges", "density"),
    [
        ("set_mlp_mnist", 125_680, 0.045),
        ("set_mlp_cifar10", 381_440, 0.0188),
        ("set_mlp_madelon", 6_502, 0.0026),
        ("set_mlp_pcmac", 9_291, 0.0018),
        ("set_mlp_basehock", 10_864, 0.0016),
        ("set_cnn_cifar10", 184_320, 0.0219),
        ("rigl_mlp_mnist", 9_244, 0.0347),
        ("set_rbm_mnist", 14_124, 0.036),
        ("set_rbm_mushrooms", 2_332, 0.208),
        ("set_rbm_basehock", 58_982, 0.0243),
        ("ctre_mlp_madelon", 6_502, 0.0026),
        ("ctre_mlp_mnist", 6_794, 0.0024),
    ],
)
def test_budgets_are_those_the_descriptions_state(name, edges, density):
    config = load_recipe(name)
    sizes = list(itertools.pairwise(config.model.widths))
    shares = layer_densities(
        shapes_of(config.model.widths),
        epsilon=config.topology.epsilon,
        densities=config.topology.densities,
    )
    counts = [round(share * a * b) for share, (a, b) in zip(shares, sizes, strict=True)]
    assert sum(counts) == edges
    assert edges / sum(a * b for a, b in sizes) == pytest.approx(density, rel=0.03)
