import torch

from clbinn.strategies.coreset import k_centre, random_choice


def slow_k_centre(x: torch.Tensor, size: int) -> list[int]:
    chosen = [0]
    while len(chosen) < size:
        distance = torch.cdist(x, x[chosen]).min(1).values
        chosen.append(int(distance.argmax()))
    return chosen


def test_k_centre_is_the_literal_one():
    torch.manual_seed(0)
    x = torch.randn(50, 4, dtype=torch.float64)
    assert k_centre(x.view(50, 2, 2), 12).tolist() == slow_k_centre(x, 12)


def test_k_centre_finds_the_clusters():
    torch.manual_seed(0)
    centres = 100 * torch.eye(5)
    x = centres.repeat_interleave(10, 0) + torch.randn(50, 5)
    assert sorted(i // 10 for i in k_centre(x, 5).tolist()) == [0, 1, 2, 3, 4]


def test_k_centre_never_chooses_twice_even_among_equals():
    assert sorted(k_centre(torch.ones(6, 3), 6).tolist()) == [0, 1, 2, 3, 4, 5]


def test_random_choice_is_without_repetition_and_follows_its_generator():
    first, second = (random_choice(100, 40, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert len(set(first.tolist())) == 40
    assert first.max() > 40
