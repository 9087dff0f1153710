import pytest

from clbinn.terminal import matrices, matrix_text


def test_small_matrix_is_shown_whole():
    assert matrix_text([[0.1, 0.2], [0.9, 0.25], [0.8, 0.95]]).splitlines() == [
        "  after task       1      2   mean of seen",
        "   untrained    10.0   20.0",
        "           1    90.0   25.0          90.00",
        "           2    80.0   95.0          87.50",
    ]


def test_large_matrix_is_cut_short():
    tasks = 1000
    text = matrix_text([[0.5] * tasks for _ in range(tasks + 1)])
    assert len(text.splitlines()) == 14
    assert max(map(len, text.splitlines())) < 120
    assert text.splitlines()[-1].split()[0] == "1000"
    assert " 1000   mean of seen" in text


def test_seeds_are_averaged_and_strategies_kept_apart(tmp_path):
    for strategy, seed, accuracy in (("a-1", 0, 0.6), ("a-1", 1, 0.8), ("b-2", 0, 0.5)):
        run = tmp_path / strategy / f"seed-{seed}"
        run.mkdir(parents=True)
        (run / "accuracy_matrix.csv").write_text(f"trained_task,test_task_1\n0,0.1\n1,{accuracy}\n")
    text = matrices(sorted(tmp_path.glob("*/*")))
    assert "a-1: accuracy in %, mean of 2 seeds" in text
    assert "b-2: accuracy in %, 1 seed" in text
    assert [line.split() for line in text.splitlines() if line.strip().startswith("1 ")] == [
        ["1", "70.0", "70.00"],
        ["1", "50.0", "50.00"],
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "the header"),
        (b"\xff", "'utf-8' codec"),
        (b"trained_task,test_task_1\n0,0.1\n", "rows are missing"),
    ],
)
def test_damaged_matrix_is_named_and_the_others_shown(tmp_path, content, why):
    for strategy in ("a-1", "b-2"):
        (tmp_path / strategy / "seed-0").mkdir(parents=True)
    (tmp_path / "b-2/seed-0/accuracy_matrix.csv").write_text("trained_task,test_task_1\n0,0.1\n1,0.9\n")
    if content is not None:
        (tmp_path / "a-1/seed-0/accuracy_matrix.csv").write_bytes(content)
    text = matrices(sorted(tmp_path.glob("*/*")))
    assert "a-1: accuracy" not in text
    assert f"{tmp_path}/a-1/seed-0: accuracy_matrix.csv can't be read ({why}" in text
    assert "b-2: accuracy in %, 1 seed" in text
