"""VCL with coresets: what is kept, and the copy that is trained on it before a prediction."""

import copy

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream

from clbinn.errors import UserError
from clbinn.strategies.vcl import VCL


@pytest.mark.parametrize("kind", ["random", "k_centre"])
def test_coresets_are_out_of_the_training_data(make_vcl, make_stream, kind, listen):
    strategy, stream = make_vcl(coreset_size=7, coreset=kind), make_stream()
    sizes, rows = [], []
    listen(strategy, "before_training_epoch", lambda: sizes.append(len(strategy.adapted_dataset)))
    listen(strategy, "after_training_iteration", lambda: rows.append(strategy.mb_x.clone()))
    strategy.train(stream.train_stream[0])
    assert set(sizes) == {53}
    trained = torch.cat(rows)
    assert len(strategy.coresets[0]["y"]) == 7
    for x in strategy.coresets[0]["x"]:
        assert not (trained == x).all(1).any()


def test_a_copy_is_tuned_on_the_coresets_and_dropped(make_vcl, make_stream, evaluate):
    stream = make_stream()
    other = torch.tensor([(y + 1) % 3 for _, y, _ in stream.test_stream[0].dataset])
    likelihoods = {}
    for turn in (0, 1):
        torch.manual_seed(0)
        strategy = make_vcl(coreset_size=20, train_epochs=12, coreset_epochs=60)
        for experience in stream.train_stream:
            strategy.train(experience)
        for kept in strategy.coresets.values():
            kept["y"] = (kept["y"] + turn) % 3  # what was trained on labels of another class comes nearer to these
        before = copy.deepcopy(strategy.model.state_dict())
        log_probs, _ = evaluate(strategy, stream.test_stream[0])
        likelihoods[turn] = log_probs[torch.arange(len(other)), other].mean()
        for name, value in strategy.model.state_dict().items():
            assert torch.equal(value, before[name])
    assert likelihoods[1] > likelihoods[0] + 0.1


def test_the_copy_is_dropped_when_evaluation_fails(make_vcl, make_stream, listen):
    strategy, stream = make_vcl(coreset_size=5, coreset_epochs=2), make_stream()
    strategy.train(stream.train_stream[0])
    before = copy.deepcopy(strategy.model.state_dict())
    listen(strategy, "after_eval_forward", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        strategy.eval(stream.test_stream)
    for name, value in strategy.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_training_goes_on_in_its_mode_after_an_evaluation_with_coresets(make_vcl, make_net, make_stream, listen):
    strategy, stream = make_vcl(make_net(dropout=0.5), coreset_size=5, coreset_epochs=1, eval_every=1), make_stream()
    modes = []
    listen(strategy, "before_forward", lambda: modes.append(strategy.model.training))
    strategy.train(stream.train_stream[0], eval_streams=[stream.test_stream])
    assert modes == [True] * 9


def test_weights_that_were_put_in_are_tuned_anew(make_vcl, make_stream, evaluate):
    strategy, stream = make_vcl(coreset_size=6, coreset_epochs=2), make_stream()
    strategy.train(stream.train_stream[0])
    learned, _ = evaluate(strategy, stream.test_stream[0])
    zeros = {name: torch.zeros_like(value) for name, value in strategy.model.state_dict().items()}
    strategy.model.load_state_dict(zeros)
    assert not torch.equal(evaluate(strategy, stream.test_stream[0])[0], learned)


def test_coresets_of_parts_are_refused(make_vcl, make_stream):
    with pytest.raises(UserError, match="chosen from whole tasks"):
        make_vcl(coreset_size=5).train(split_online_stream(make_stream().train_stream, 20, access_task_boundaries=True))


def test_a_coreset_as_large_as_the_task_is_refused(make_vcl, make_stream):
    with pytest.raises(UserError, match="leaves nothing of task 1"):
        make_vcl(coreset_size=60).train(make_stream().train_stream[0])


def test_coresets_of_tasks_are_drawn_apart(make_net, make_stream):
    stream = make_stream()
    strategy = VCL(model=make_net(), evaluator=None, num_samples=1, mc_samples=1, init_epochs=0, coreset_size=5)
    places = []
    for task, e in enumerate(stream.train_stream):
        strategy.train(e)
        x = torch.stack([row[0] for row in e.dataset])
        places.append([int((x == one).all(1).nonzero()) for one in strategy.coresets[task]["x"]])
    assert places[0] != places[1]
