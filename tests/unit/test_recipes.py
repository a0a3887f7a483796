"""Every shipped recipe is complete, honest about its source, and readable."""

import itertools
import tomllib

import pytest

from topokit.config import RECIPES, RunConfig, load_recipe
from topokit.data import DATASETS


@pytest.mark.parametrize("name", RECIPES)
class TestEachRecipe:
    def test_says_what_it_is(self, name):
        text = RECIPES[name].read_text(encoding="utf-8")
        assert text.startswith("# ")
        about = tomllib.loads(text)["about"]
        assert set(about) == {"title", "description", "paper", "differences"}
        assert all(len(words) > 10 for words in about.values())

    def test_survives_a_round_trip(self, name):
        config = load_recipe(name)
        assert RunConfig.from_toml(config.to_toml()) == config

    def test_names_a_known_data_set(self, name):
        assert load_recipe(name).data.name in DATASETS


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


def test_budgets_are_those_the_descriptions_state():
    config = load_recipe("set_mlp_mnist")
    sizes = list(itertools.pairwise(config.model.widths))
    links = sum(min(config.topology.epsilon * (a + b), a * b) for a, b in sizes)
    assert links / sum(a * b for a, b in sizes) == pytest.approx(0.045, abs=0.0005)
