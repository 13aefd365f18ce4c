"""Write the data of the built-in suite."""

import json
from collections.abc import Iterable
from pathlib import Path

from moelora.files import atomic_write_text
from moelora.sums import write_sums
from moelora.tasks.builtin import corpus, decoder_tasks, encoder_lessons, encoder_tasks

HELD_OUT = "decoder-held-out.jsonl"

# One lm-eval task; JSON strings are YAML strings, so paths are safe whatever they hold.
LM_EVAL_TASK = """\
task: moelora_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {train}
    test: {test}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


def write_data(out_dir: Path, seed: int) -> None:
    """Write tasks and corpus as JSON lines, and the decoder tasks as lm-eval YAML.

    Layout: ``decoder/<task>/{train,test}.jsonl``, ``lm_eval/moelora_<task>.yaml``,
    ``encoder/<task>/{train,test}.jsonl`` and ``corpus/{decoder,decoder-held-out,encoder}.jsonl``. The bytes depend on
    the seed alone, but for the absolute paths in ``lm_eval/``: lm-eval reads data files relative to the working
    directory of the process. ``sums.json``, written last, has the sums of all.

    Args:
        out_dir: Folder to fill; made if it is not there.
        seed: Seed of the data. Not that of a run.
    """
    out_dir = Path(out_dir).resolve()
    for half, tasks in (("decoder", decoder_tasks), ("encoder", encoder_tasks)):
        for task, splits in tasks.generate(seed).items():
            for split, rows in splits.items():
                _write_lines(out_dir / half / task / f"{split}.jsonl", rows)
    for task in decoder_tasks.TASKS:
        files = {split: json.dumps(str(out_dir / "decoder" / task / f"{split}.jsonl")) for split in ("train", "test")}
        path = out_dir / "lm_eval" / f"moelora_{task}.yaml"
        atomic_write_text(path, LM_EVAL_TASK.format(name=task, **files))
    stories = list(corpus.documents(seed))
    _write_lines(out_dir / "corpus" / "decoder.jsonl", stories)
    _write_lines(out_dir / "corpus" / HELD_OUT, corpus.held_out(seed, stories))
    _write_lines(out_dir / "corpus" / "encoder.jsonl", encoder_lessons.documents(seed))
    write_sums(out_dir)


def _write_lines(path: Path, rows: Iterable[dict]) -> None:
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
