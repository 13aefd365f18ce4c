"""A sensitivity with another digit, as `moelora sensitivity` left it, allocates nothing."""

import json

from world import plan, task_document, write_plan

from moelora.cli import main
from moelora.files import SEAL


def test_the_commands_seal_what_they_write_and_refuse_what_was_changed(world, tmp_path, capsys):
    path = write_plan(tmp_path, plan("encoder", [task_document("mood")]))
    scores, out = tmp_path / "mood.json", tmp_path / "allocation.json"
    words = ["sensitivity", "--plan", str(path), "--task", "tiny-mood", "--examples", "4", "--out", str(scores)]
    assert main([*words, "--data", str(world / "data"), "--base", str(world / "encoder")]) == 0
    allocate = ["allocate", "--sensitivity", str(scores), "--out", str(out)]
    assert main(allocate) == 0
    assert SEAL in json.loads(out.read_text())
    text = scores.read_text()
    place = text.index('"score": ') + len('"score": 0.0')
    changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
    assert json.loads(changed) != json.loads(text)
    scores.write_text(changed)
    capsys.readouterr()
    assert main(allocate) == 2
    assert f"sensitivity {scores} was changed since it was written" in capsys.readouterr().err
