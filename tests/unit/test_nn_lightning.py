import importlib.util
import warnings

import pytest
import torch
from torch import nn

from tests.unit.test_nn_engine import random_layer
from topokit.graph import same_edges
from topokit.nn import SparseLinear, sparse_layers
from topokit.nn.lightning import rewiring

WITHOUT = importlib.util.find_spec("lightning") is None


@pytest.mark.skipif(not WITHOUT, reason="Lightning is installed")
def test_says_what_is_missing(rng):
    with pytest.raises(ImportError, match=r"pip install 'topokit-nn\[lightning\]'"):
        rewiring("set", rng=rng)


@pytest.mark.skipif(WITHOUT, reason="Lightning is not installed (the extra 'lightning')")
@pytest.mark.parametrize(("rule", "every"), [("set", None), ("rigl", 4), ("sensitivity", None)])
@pytest.mark.filterwarnings("ignore")
def test_rewires_while_lightning_trains(rng, tmp_path, rule, every):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                SparseLinear(random_layer(20, 30, density=0.3, rng=rng), rng=rng),
                nn.ReLU(),
                SparseLinear(random_layer(30, 5, density=0.3, rng=rng), rng=rng),
            )

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.randn(48, 20), torch.arange(48) % 5)
    seen = []
    callback = rewiring(
        rule, every=every, rng=rng, recorder=lambda step, graphs: seen.append((step, graphs))
    )
    trainer = lightning.Trainer(
        max_epochs=4, accumulate_grad_batches=2, callbacks=[callback], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    model = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=8))
    # six batches, three steps an epoch, twelve in all; none after the last
    assert [step for step, _ in seen] == list(range(0, 12, every or 3))
    assert callback.engine.steps == 12
    first, last = seen[0][1], seen[-1][1]
    assert list(first) == ["net.0", "net.2"] == list(sparse_layers(model))
    assert not same_edges(first["net.0"], last["net.0"])
    assert same_edges(last["net.0"], model.net[0].graph)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    other = Module()
    other.load_state_dict(torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"])
    assert same_edges(other.net[0].graph, model.net[0].graph)
