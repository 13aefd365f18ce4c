"""Names in YAML reach command lines: they are refused where they are read, and quoted where they are used."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
RULES = sorted((REPOSITORY / "workflow" / "rules").rglob("*.smk"))
# Numbers by the schema, options that are words of ours, or command lines that are quoted where they are put together.
MADE_SAFE = {
    "rounds", "warmup", "batch_size", "sequence_length", "threads", "examples", "seeds", "seed", "sources", "options",
    "sensitivities", "allocation", "checkpointing", "evaluate",
}  # fmt: skip
HOSTILE = (
    "a b",
    "a;touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "a'b",
    'a"b',
    "a\nb",
    "../up",
    "-rf",
    "*",
    "a&b>c|d",
)


def shells(path: Path) -> list[str]:
    """Return the command of every rule in a file."""
    text = path.read_text(encoding="utf-8")
    return [
        "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', block)) for block in re.findall(r"shell:\n((?: +\".*\n)+)", text)
    ]


def test_every_path_in_a_command_is_quoted():
    found = [(path.name, command) for path in RULES for command in shells(path)]
    assert len(found) >= 15
    for name, command in found:
        for field in re.findall(r"\{([^}]*)\}", command):
            kind, _, form = field.partition(":")
            if form != "q":
                root, _, key = kind.partition(".")
                safe = field == "LAUNCH" or (root == "params" and key in MADE_SAFE)  # LAUNCH holds no name of a user's
                assert safe, f"{name}: {{{field}}} is not quoted"


def test_what_is_put_together_outside_a_command_is_quoted_there():
    for name, words in {
        "common.smk": ["shlex.quote(path)"], "placing.smk": ["shlex.quote(json.dumps(votes))", "shlex.quote(score)"],
        "search.smk": ['shlex.join(["--sensitivity"', 'shlex.join(["--allocation"'],
    }.items():  # fmt: skip
        text = (REPOSITORY / "workflow" / "rules" / name).read_text(encoding="utf-8")
        assert all(word in text for word in words), name


def test_a_quoted_name_is_one_word_to_the_shell(tmp_path):
    pytest.importorskip("snakemake", reason="the workflow needs snakemake: pip install moelora[workflow]")
    from snakemake.utils import format as fill

    for path in RULES:
        for command in shells(path):
            for field in sorted(set(re.findall(r"\{[^}]*:q\}", command))):
                name = field[1:-1].partition(":")[0].rpartition(".")[2]
                text = fill("printf '%s\\0' {" + name + ":q}", **{name: list(HOSTILE)})
                done = subprocess.run(["/bin/bash", "-c", text], capture_output=True, cwd=tmp_path, check=True)
                assert done.stdout.decode().split("\0")[:-1] == list(HOSTILE), field
            break  # one field of each file is as good as all: the formatter is the same
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_hostile_names_end_before_the_graph_with_one_message(checkout):
    suite = yaml.safe_load((checkout.path / "grid.yaml").read_text())
    grid = suite["grid"][0]
    changes = {
        "name": {"name": "grid; touch pwned"},
        "variants": {"variants": ["lora", "$(touch pwned)"]},
        "models": {"grid": [{**grid, "models": ["`touch pwned`"]}]},
        "tasks": {"grid": [{**grid, "tasks": ["../../mrpc"]}]},
        "mixtures": {"grid": [{**grid, "mixtures": {"a b;touch pwned": ["mrpc", "rte"]}}]},
        "regimes": {"regimes": {"x'; touch pwned; '": {"seeds": [0]}}},
        "results": {"results": "results/$(touch pwned)"},
        "reports": {"reports": "../../reports"},
        "speed": {"speed": ["x; touch pwned"]},
    }
    for key, change in changes.items():
        (checkout.path / "hostile.yaml").write_text(yaml.safe_dump({**suite, **change}))
        output = checkout.snakemake("-n", "--configfile", "hostile.yaml", check=False)
        assert "hostile.yaml: " in output and key in output, output
        assert "Traceback" not in output and "Job stats" not in output, output
    for option in ("results=a;touch pwned", "tasks=[no]", "name=../x"):
        output = checkout.snakemake("-n", "--configfile", "grid.yaml", "--config", option, check=False)
        assert "Traceback" not in output and "Job stats" not in output, output
    assert not list(checkout.path.parent.rglob("pwned"))
    title = "T\"; touch pwned; $(touch pwned) `touch pwned` ' & <b>"
    (checkout.path / "hostile.yaml").write_text(yaml.safe_dump({**suite, "title": title}))
    output = checkout.snakemake("-n", "-p", "--configfile", "hostile.yaml")
    line = next(line for line in output.splitlines() if "moelora report" in line)
    command = line.strip().removeprefix("Shell command: ").rpartition(" > ")[0]
    words = subprocess.run(
        ["/bin/bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"],
        capture_output=True, cwd=checkout.path, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    assert words[words.index("--title") + 1] == title
    assert not list(checkout.path.parent.rglob("pwned"))
