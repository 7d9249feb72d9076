from benchmarks.links.entries import Need, setting_of
from benchmarks.links.goal import _cells_of_adam, _seconds_a_round
from benchmarks.links.race import MINI_BATCHES, tasks_of
from benchmarks.links.racer import Task

NEEDS = {
    name: Need(10, 20, {"lr": 0.01})
    for name in ("adam", "lbfgs", "gd-armijo", *(f"adam {batch}" for batch in MINI_BATCHES))
}


def test_every_task_of_a_cell_is_told_from_the_others_and_knows_how_many_rounds_it_needs() -> None:
    tasks = tasks_of(NEEDS)
    assert len(tasks) == len({(task.method, setting_of(task)) for task in tasks}) == 24
    assert {task.need for task in tasks if not task.is_whole} == {"adam", "lbfgs", "adam 1000", "adam 2500"}
    assert all(task.options == NEEDS[task.need].options for task in tasks if not task.is_whole)


def test_adam_s_round_is_that_of_its_best_schedule_for_each_batch() -> None:
    timed = [Task("adam", {}, parts, "posted", 4, batch=batch) for parts, batch in ((20, 0), (4, 1000), (20, 1000))]
    ends = [[1.0, 3.0, 5.0, 6.0], [0.5, 1.0, 1.5, 2.5], [0.0, 0.75, 1.5, 2.25]]
    found = _seconds_a_round(timed, [[{"ends": own}, {"ends": own}] for own in ends])
    assert found == {0: 2.0, 1000: 0.5}


def test_adam_takes_the_batch_that_is_fastest() -> None:
    assert _cells_of_adam({0: 30, 1000: 90}, {0: 15.0, 1000: 12.0}) == ("1000", "90", "12.0", "30", "15.0")
    assert _cells_of_adam({0: 30, 1000: 900}, {0: 15.0, 1000: 120.0}) == ("all", "30", "15.0", "30", "15.0")
