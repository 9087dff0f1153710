"""Every recipe of this folder's methods learns two tasks of digits and keeps to what it promises."""

import pytest
import torch

from clbinn import benchmarks
from clbinn.experiments.build import build_strategy
from clbinn.recipes import catalogue, load_strategy

NAMES = [name for name in catalogue("strategies") if not name.startswith("bayesbinn")]
SLOW_STARTERS = ("bop", "joint_bayesbinn", "lrnet", "per_task_bayesbinn", "pmf")
FEWER = {
    "vcl": ["options.mc_samples=10", "options.num_samples=3"],
    "vcl_coreset": ["options.coreset_size=20", "options.coreset_epochs=10"],
}


@pytest.fixture(scope="module")
def digits():
    return benchmarks.load("permuted_digits")


def quick(name):
    """Overrides that make a recipe short."""
    overrides = ["train.epochs=4", "train.batch_size=32", "train.eval_batch_size=400"]
    return overrides + [word for start, words in FEWER.items() if name.startswith(start) for word in words]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_two_tasks_and_predicts(name, digits, evaluate):
    recipe = load_strategy(name, quick(name))
    assert recipe.provenance
    strategy, _ = build_strategy(recipe, digits, 0, "cpu")
    torch.manual_seed(0)
    for experience in list(digits.train_stream)[:2]:
        strategy.train(experience)
    logits, accuracy = evaluate(strategy, digits.test_stream[1])
    assert logits.shape[1] == 10
    assert logits.isfinite().all()
    if name not in SLOW_STARTERS:
        assert accuracy > 0.5
    if name.startswith("vcl"):
        torch.testing.assert_close(logits.logsumexp(1), torch.zeros(len(logits)), atol=1e-4, rtol=0)


def test_the_comparison_has_all_its_methods():
    wanted = (
        "naive joint per_task vcl vcl_coreset vcl_coreset_kcenter ewc ewc_online ewc_avalanche si si_avalanche ste bop"
    )
    wanted += " synaptic_metaplasticity replay gem agem lwf mas gdumb"
    assert set(wanted.split()) <= set(NAMES)


def test_real_networks_are_the_same_for_all():
    kinds = {
        str(load_strategy(name).model.model_dump()) for name in ("naive", "vcl", "ewc", "si", "replay", "gem", "mas")
    }
    assert len(kinds) == 1
