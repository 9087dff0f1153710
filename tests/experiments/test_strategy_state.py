"""A strategy's state, taken and put back."""

from types import SimpleNamespace

import torch

from clbinn.experiments.strategy_state import gather, restore, settings, unsaved


class Keeps:
    """A part with a tensor, a number and a generator's state."""

    def __init__(self):
        self.generator = torch.Generator()
        self.state = {"nested": [{"anchor": torch.ones(3)}, 2.0]}

    def state_dict(self):
        return self.state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state.pop("generator"))
        self.state = state


def strategy(device):
    model, keeps = torch.nn.Linear(2, 2), Keeps()
    return SimpleNamespace(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        plugins=[Keeps()],
        clock=SimpleNamespace(train_iterations=0),
        device=torch.device(device),
        state_dict=keeps.state_dict,
        load_state_dict=keeps.load_state_dict,
        keeps=keeps,
    )


def test_what_was_saved_from_another_device_comes_to_the_strategys():
    before, after = strategy("cpu"), strategy("meta")  # a device that every machine has
    restore(after, after.plugins, gather(before, before.plugins))
    for part in (after.keeps, after.plugins[0]):
        first, second = part.state["nested"]
        assert first["anchor"].device.type == "meta"
        assert second == 2.0


def test_a_part_that_cannot_tell_its_state_is_named_wherever_it_comes_from():
    class Forgetful:
        def __init__(self):
            self.seen = []

    Forgetful.__module__ = "clbinn.strategies.forgetful"
    assert unsaved(strategy("cpu"), [Keeps(), Forgetful()], [{}] * 3) == ["Forgetful"]


def test_a_number_that_changes_is_no_setting():
    class Counts:
        def __init__(self):
            self.every, self.steps, self.best = 5, 0, None

    learner, plugin = strategy("cpu"), Counts()
    before = settings(learner, [plugin])
    assert unsaved(learner, [plugin], before) == []
    plugin.steps += 1
    assert unsaved(learner, [plugin], before) == ["Counts"]
