from world import plan, task_document, write_plan

from bench.state_saving import Saves, main, measure, table


def test_saves_are_counted_and_the_plan_is_left_alone(world, tmp_path, capsys):
    path = write_plan(tmp_path, plan("encoder", [task_document("mood")], max_steps=50, checkpoint_every_steps=4))
    before = path.read_bytes()
    found = measure(path, world / "data", world / "encoder", 6, 1)
    assert found.due == 5 and 1 <= len(found.seconds) <= 5 and found.bytes > 10_000 and found.training > 0
    assert main([str(path), "--data", str(world / "data"), "--base", str(world / "encoder"), "--steps", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 1 steps | 8 |") and lines[3].startswith("| 4 steps | 2 |")
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["plan.json"]


def test_the_share_is_of_the_time_of_training():
    assert table([Saves(1, 199, [0.1, 0.3], 40.0, 2_000_000)]).splitlines()[2] == (
        "| 1 steps | 199 | 2 | 2.00 | 0.2000 | 40.00 | 1.00% |"
    )
