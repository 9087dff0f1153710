import torch

from clbinn.nn.synthetic import snelson, two_moons


def test_outputs_are_as_many_as_asked_for():
    for make, features in ((two_moons, 2), (snelson, 1)):
        for outputs in (1, 3):
            assert make(out_features=outputs)(torch.randn(4, features)).shape == (4, outputs)
