import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream

from clbinn.errors import UserError
from clbinn.strategies.joint import Joint


def test_each_task_trains_on_all_data_so_far(make_net, make_stream, evaluate, listen):
    strategy = Joint(model=make_net(hidden=64), evaluator=None, lr=1e-2, train_mb_size=20, train_epochs=30)
    stream = make_stream(tasks=3)
    seen = []
    listen(strategy, "after_training_epoch", lambda: seen.append(strategy.adapted_dataset))
    for count, experience in enumerate(stream.train_stream, start=1):
        strategy.train(experience)
        assert len(seen[-1]) == 60 * count
    everything = torch.stack([sample[0] for sample in seen[-1]])
    expected = [sample[0] for experience in stream.train_stream for sample in experience.dataset]
    assert torch.equal(everything, torch.stack(expected))
    training = [evaluate(strategy, experience)[1] for experience in stream.train_stream]
    assert min(training) > 0.9


def test_a_stream_that_can_be_read_only_once_is_refused(make_net, make_stream):
    strategy = Joint(model=make_net(), evaluator=None)
    with pytest.raises(UserError, match="only once"):
        strategy.train(split_online_stream(make_stream().train_stream, 20))


def test_earlier_tasks_are_read_with_the_transforms_of_training(make_net, make_stream, transform_groups, listen):
    strategy = Joint(model=make_net(), evaluator=None, train_mb_size=20)
    seen = []
    listen(strategy, "before_forward", lambda: seen.extend(strategy.mb_x[:, 0].tolist()))
    stream = make_stream(transform_groups=transform_groups, initial_transform_group="eval")
    for experience in stream.train_stream:
        strategy.train(experience)
    assert seen == [100.0] * 180
