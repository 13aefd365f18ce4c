"""The three protocols on a model whose answers are known, through the code that scores a run."""

import json

import pytest
import torch
from oracle import Oracle, PlainOracle, make_tokenizer

from moelora.config import ConfigDir, find_config_dir
from moelora.errors import ConfigError
from moelora.evaluation.batching import AUTO, in_batches
from moelora.evaluation.score import score_model
from moelora.tasks import Task, load_task
from moelora.tasks.prompts.posing import pose
from moelora.tasks.protocols import POSED, metric_of, put_under
from moelora.tasks.questions import Question

CONFIG: ConfigDir = find_config_dir()
WRONG_PLACE = {" A": 0.1, " B": 0.2, " C": 0.3, " D": 0.4}  # anywhere but behind the marker

ARC = [  # question, choices, place of the right one, labels; what the model holds likely after "Answer:"
    (Question("whatfloats", ("lead", "cork"), 1, ("A", "B")), {" A": 0.1, " B": 0.9}),  # right
    (Question("whatsinks fast", ("lead", "cork"), 0, ("A", "B")), {" A": 0.4, " B": 0.6}),  # wrong
    # right among the labels on offer; " E" and " 2" are not
    (Question("whatglows in the dark", ("sun", "sea", "sand"), 0, ("A", "B", "C")), {" A": 0.3, " E": 0.6, " B": 0.1}),
    (Question("whatrolls", ("ball", "box", "bed"), 2, ("1", "2", "3")), {" 3": 0.7, " 1": 0.2, " A": 0.1}),  # right
]


def task_under(protocol, name, questions):
    document = put_under(CONFIG.load("task", name), protocol)
    examples = tuple(pose(question, document["prompts"], protocol, i) for i, question in enumerate(questions))
    return Task(document, examples, examples, "none")


def score_tasks(model, tokenizer, tasks, max_length=512, limit=None, batch_size=2, data_dir=None):
    plan = {
        "model": {"name": "oracle"}, "task": "t", "variant": "base", "regime": "published", "seed": 0,
        "evaluation": {"batch_size": batch_size, "limit": limit},
        "training": {"max_length": max_length, "precision": "fp32"},
    }  # fmt: skip
    return score_model(model, tokenizer, tasks, plan, data_dir=data_dir, device="cpu", reads_input=True)


def arc_model(kind=Oracle):
    questions = [question for question, _ in ARC]
    table = {question.text.split()[0]: likely for question, likely in ARC}

    def script(words):
        if words[-1] != "Answer:":
            return WRONG_PLACE
        return next(likely for name, likely in table.items() if f" {name}" in words)

    texts = [pose(question, "arc", protocol).prompt for question in questions for protocol in POSED[:2]]
    tokenizer = make_tokenizer([*texts, *(f" {label}" for label in "1234ABCDE")])
    return kind(tokenizer, script), tokenizer, questions


@pytest.mark.parametrize("kind", [Oracle, PlainOracle])
def test_label_logits_of_the_offered_labels(kind):
    model, tokenizer, questions = arc_model(kind)
    task = task_under("label-logits", "arc_easy", questions)
    scores, rows = score_tasks(model, tokenizer, [task])
    assert rows == [
        ("arc_easy", 0, 1, 1, 1.0), ("arc_easy", 1, 0, 1, 0.0), ("arc_easy", 2, 0, 0, 1.0), ("arc_easy", 3, 2, 2, 1.0),
    ]  # fmt: skip
    entry = scores["arc_easy"]
    assert entry["metrics"] == {"acc_label_logits": 0.75} and entry["main_metric"] == "acc_label_logits"
    assert entry["protocol"] == "label-logits"
    assert len(model.batches) == 2  # four prompts, two a batch


def test_label_logits_as_coded_ranks_nine_candidates():
    model, tokenizer, questions = arc_model()
    task = task_under("label-logits-as-coded", "arc_easy", questions)
    scores, rows = score_tasks(model, tokenizer, [task])
    places = [(gold, said) for _, _, gold, said, _ in rows]  # 0 to 3 are digits, 4 to 8 letters
    assert places == [(5, 5), (4, 5), (4, 8), (2, 2)]
    assert scores["arc_easy"]["metrics"] == {"acc_label_logits_as_coded": 0.5}


def test_a_prompt_that_is_too_long_keeps_its_marker_only_without_the_peculiarity():
    model, tokenizer, questions = arc_model()
    length = len(tokenizer(pose(questions[0], "arc", "label-logits").prompt)["input_ids"])
    shorter = length - 1
    kept, _ = score_tasks(model, tokenizer, [task_under("label-logits", "arc_easy", questions[:1])], max_length=shorter)
    assert kept["arc_easy"]["metrics"]["acc_label_logits"] == 1.0
    lost = task_under("label-logits-as-coded", "arc_easy", questions[:1])
    scores, rows = score_tasks(model, tokenizer, [lost], max_length=shorter)
    assert scores["arc_easy"]["metrics"]["acc_label_logits_as_coded"] == 0.0
    assert rows[0][3] == 7  # " D", the likeliest where no marker stands


def letters_tokenizer(text, *whole):
    """Return a tokenizer by letters, but for some words that are tokens as a whole."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "</s>", *whole, *sorted(set(text))])
    inner = Tokenizer(models.WordLevel({token: place for place, token in enumerate(vocabulary)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*whole, "."])), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="</s>")


def test_labels_that_begin_alike_are_told_apart_behind_what_they_share():
    """Every label begins with the token of the space."""
    questions = [ARC[0][0]]
    tokenizer = letters_tokenizer(pose(questions[0], "arc", "label-logits").prompt + "1234ABCDE")

    def script(words):  # behind the marker comes a space, and behind that the answer
        return {"B": 0.9, "A": 0.1} if words[-1] == " " else {"A": 0.9, "B": 0.1}

    model = Oracle(tokenizer, script)
    _, rows = score_tasks(model, tokenizer, [task_under("label-logits", "arc_easy", questions)])
    assert rows[0][3] == 1
    _, rows = score_tasks(model, tokenizer, [task_under("label-logits-as-coded", "arc_easy", questions)])
    assert rows[0][3] == 4  # the letter's own token, asked where the space is due


@pytest.mark.parametrize("likely, said", [(0.45, 0), (0.43, 2)])
def test_labels_of_one_and_of_two_tokens_are_ranked_by_their_probability(likely, said):
    """Of " A" the tokenizer has one token; " B" and " C" are a space and a letter."""
    questions = [Question("whatfloats", ("lead", "cork", "wood"), 2, ("A", "B", "C"))]
    tokenizer = letters_tokenizer(pose(questions[0], "arc", "label-logits").prompt + "ABC", " A")

    def script(words):  # " C" has eight tenths of the 0.55 that the space has
        return {"B": 0.2, "C": 0.8} if words[-1] == " " else {" A": likely, " ": 0.55}

    model = Oracle(tokenizer, script)
    _, rows = score_tasks(model, tokenizer, [task_under("label-logits", "arc_easy", questions)])
    assert rows[0][3] == said


def test_beginnings_that_tell_words_apart():
    from moelora.evaluation.protocols.label_logits import telling_beginnings

    assert telling_beginnings([(1, 9), (2, 9), (3,)]) == [(1,), (2,), (3,)]
    # as a small vocabulary has them: one letter with its space, the others letter by letter
    assert telling_beginnings([(7, 1), (8,), (7, 3), (7, 4, 5)]) == [(7, 1), (8,), (7, 3), (7, 4)]
    assert telling_beginnings([(7,), (7, 1)]) == [(7,), (7, 1)]
    assert telling_beginnings([(7,), (7,)]) == [(7,), (7,)]


def test_labels_that_cannot_be_told_apart_are_refused():
    model, _, questions = arc_model()
    poor = make_tokenizer([pose(questions[0], "arc", "label-logits").prompt])  # " A" to " E" are all unknown
    for protocol in ("label-logits", "label-logits-as-coded"):
        with pytest.raises(ConfigError, match=r"label words .* are not told apart"):
            score_tasks(model, poor, [task_under(protocol, "arc_easy", questions[:1])])


BOOLQ = [
    Question("skyblue", ("true", "false"), 0),  # generates the right word
    Question("firecold now", ("true", "false"), 1),  # the wrong one
    Question("rainwet", ("true", "false"), 0),  # none
    Question("snowwarm and more words", ("true", "false"), 1),  # greedy search would say true
    Question("icehard", ("true", "false"), 0),  # only behind a second marker
]
SAYS = " the correct answer is".replace(" the", "the", 1)


def boolq_model(as_coded):
    """Return a model that says of each question what its comment above promises."""
    yes, no = f"{SAYS} true", f"{SAYS} false"
    plain = {"skyblue": yes, "firecold": yes, "rainwet": "I do not know", "icehard": "well ### Response: true"}
    split = make_tokenizer([]).backend_tokenizer.pre_tokenizer

    def words_of(text):
        return [word for word, _ in split.pre_tokenize_str(text)]

    def script(words):
        if "Response:" not in "".join(words):
            return {"</s>": 1.0}
        marker = next(i for i, word in enumerate(words) if word.endswith("Response:"))
        said = words[marker + 1 :]
        while said and said[0].isspace():
            said = said[1:]
        if any("snowwarm" in word for word in words):
            if not said:
                return {"true": 0.6, "false": 0.4}
            if said == ["true"]:  # nine ways on, none likely: the beam with the likelier whole wins
                return {f" way{i}": 0.1 for i in range(9)}
            return {"</s>": 1.0}
        answer = next(words_of(text) for name, text in plain.items() if any(name in word for word in words))
        return {answer[len(said)] if said == answer[: len(said)] and len(said) < len(answer) else "</s>": 1.0}

    protocol = "generate-regex-as-coded" if as_coded else "generate-regex"
    texts = [pose(question, "boolq", protocol).prompt for question in BOOLQ]
    texts += [*plain.values(), no, "true", "false", *(f" way{i}" for i in range(9))]
    tokenizer = make_tokenizer(texts)
    return Oracle(tokenizer, script), tokenizer, task_under(protocol, "boolq", BOOLQ)


def test_generation_and_first_match():
    model, tokenizer, task = boolq_model(as_coded=False)
    scores, rows = score_tasks(model, tokenizer, [task])
    assert [(gold, said, hit) for _, _, gold, said, hit in rows] == [
        (0, 0, 1.0), (1, 0, 0.0), (0, -1, 0.0), (1, 1, 1.0), (0, 0, 1.0),
    ]  # fmt: skip
    assert scores["boolq"]["metrics"] == {"acc_generate_regex": 0.6}
    assert max(rows for rows, _ in model.batches) == 8  # two items by four beams


def test_generation_as_coded_looks_no_further_than_a_second_marker():
    model, tokenizer, task = boolq_model(as_coded=True)
    scores, rows = score_tasks(model, tokenizer, [task])
    assert [said for _, _, _, said, _ in rows] == [0, 0, -1, 1, -1]
    assert scores["boolq"]["metrics"] == {"acc_generate_regex_as_coded": 0.4}


def test_a_prompt_longer_than_the_model_loses_its_start():
    model, tokenizer, task = boolq_model(as_coded=False)
    model.config.max_position_embeddings = 32 + 30
    _, rows = score_tasks(model, tokenizer, [task], limit=1)
    assert rows[0][3] == 0
    assert model.batches[0][1] == 30


def test_several_tasks_in_one_call_share_batches():
    model, tokenizer, questions = arc_model()
    tasks = [task_under("label-logits", name, questions) for name in ("arc_easy", "arc_challenge")]
    scores, rows = score_tasks(model, tokenizer, tasks, batch_size=8)
    assert model.batches[0][0] == 8 and len(model.batches) == 1
    assert [row[0] for row in rows] == ["arc_easy"] * 4 + ["arc_challenge"] * 4
    assert scores["arc_easy"]["metrics"] == scores["arc_challenge"]["metrics"] == {"acc_label_logits": 0.75}


LM_EVAL_TASK = """
task: moelora_{name}
dataset_path: json
dataset_kwargs: {files}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{{text}}}}}"
doc_to_choice: "{{{{{choices}}}}}"
doc_to_target: "{{{{{target}}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


def write_lm_eval_task(folder, name, rows, **fields):
    """Write a task that lm-eval reads from local rows, train and test alike, and load it."""
    (folder / "lm_eval").mkdir(exist_ok=True)
    files = {}
    for split in ("train", "test"):
        path = folder / f"{name}-{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    text = LM_EVAL_TASK.format(name=name, files=json.dumps({"data_files": files}), **fields)
    (folder / "lm_eval" / f"moelora_{name}.yaml").write_text(text)
    return load_task(CONFIG.load("task", "tiny-colour") | {"name": f"tiny-{name}"}, folder)


def test_lm_eval_on_known_likelihoods(tmp_path):
    """Three questions in lm-eval's own hands: one answered rightly, one wrongly, one rightly by length only."""
    rows = [
        {"question": "skyblue ?", "choices": ["yes", "no"], "answer": 0},
        {"question": "firecold ?", "choices": ["yes", "no"], "answer": 1},
        {"question": "rainwet ?", "choices": ["y", "no it is not"], "answer": 1},
    ]
    likely = {  # probability of the first word; further words of an answer are certain
        "skyblue": {" yes": 0.8, " no": 0.2}, "firecold": {" yes": 0.7, " no": 0.3}, "rainwet": {" y": 0.6, " no": 0.4},
    }  # fmt: skip
    following = {" no": " it", " it": " is", " is": " not"}
    task = write_lm_eval_task(tmp_path, "known", rows, text="question", choices="choices", target="answer")
    tokenizer = make_tokenizer([" ".join([row["question"], *row["choices"]]) for row in rows])

    def script(words):
        if words[-1] == " ?":
            return next(table for name, table in likely.items() if name in words)
        return {following[words[-1]]: 1.0} if words[-1] in following else {"</s>": 1.0}

    scores, found = score_tasks(Oracle(tokenizer, script), tokenizer, [task], data_dir=tmp_path)
    assert [(item, gold, said, hit) for _, item, gold, said, hit in found] == [
        (0, 0, 0, 1.0), (1, 1, 0, 0.0), (2, 1, 0, 0.0),
    ]  # fmt: skip
    # log 0.6 over one letter is less than log 0.4 over twelve
    assert scores["tiny-known"]["metrics"] == {"acc": pytest.approx(1 / 3), "acc_norm": pytest.approx(2 / 3)}
    assert scores["tiny-known"]["protocol"] == "lm-eval"


def test_lm_eval_where_beginnings_are_ranked(tmp_path):
    """WinoGrande's form: two beginnings, one continuation."""
    rows = [{"a": "the cup", "b": "the bag", "rest": "is full", "answer": n} for n in (0, 1)]
    fields = {"text": "answer", "choices": "[a, b]", "target": "rest"}
    task = write_lm_eval_task(tmp_path, "beginnings", rows, **fields)
    assert [(example.prompt, example.continuations, example.answer) for example in task.train] == [
        ("the cup", (" is full", " is full"), 0), ("the bag", (" is full", " is full"), 1),
    ]  # fmt: skip
    tokenizer = make_tokenizer(["the cup is full", "the bag is full"])

    def script(words):
        return {" is": 0.8 if " cup" in words else 0.2} if len(words) == 2 else {" full": 1.0}

    scores, found = score_tasks(Oracle(tokenizer, script), tokenizer, [task], data_dir=tmp_path)
    assert [(gold, said, hit) for _, _, gold, said, hit in found] == [(0, 0, 1.0), (1, 0, 0.0)]
    assert scores["tiny-beginnings"]["metrics"]["acc"] == 0.5


def test_tasks_of_one_name_in_lm_eval_are_scored_apart():
    from moelora.evaluation.protocols.lm_eval import distinct

    names = ["winogrande", "arc_easy", "winogrande_debiased"]
    tasks = [Task(put_under(CONFIG.load("task", name), "lm-eval"), (), (), "") for name in names]
    assert [[task.name for task in group] for group in distinct(tasks)] == [
        ["winogrande", "arc_easy"], ["winogrande_debiased"],
    ]  # fmt: skip


def test_an_unknown_protocol_is_named():
    model, tokenizer, questions = arc_model()
    task = task_under("label-logits", "arc_easy", questions)
    task.document["protocol"] = "label-logit"
    with pytest.raises(ConfigError, match="task 'arc_easy': unknown protocol 'label-logit'"):
        score_tasks(model, tokenizer, [task])


def test_metrics_of_the_protocols_are_shares_of_right_answers():
    from moelora import stats
    from moelora.evaluation.metrics import score
    from moelora.reporting.words import metric_label

    labels = set()
    for protocol in POSED:
        metric = metric_of(protocol)
        assert stats.is_proportion(metric)
        assert score(metric, [0, 1, 2, 2], [0, 1, 1, -1]) == 0.5
        labels.add(metric_label(metric))
    assert len(labels | {metric_label("acc")}) == 5


def test_automatic_batches_halve_until_they_fit_and_stay_small():
    asked, done = [], []

    def carry_out(rows):
        asked.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no room")
        done.extend(rows)

    in_batches([5, 9, 5, 9, 5, 5, 5, 5], AUTO, carry_out, "test", tokens=9 * 8)
    assert asked[:3] == [8, 4, 2]  # of the longest
    assert max(asked[3:]) <= 3
    assert sorted(done) == list(range(8)) and done[:2] == [1, 3]


def test_a_given_batch_size_is_kept_while_it_fits_and_a_single_request_that_does_not_is_told():
    seen = []
    in_batches([1, 2, 3], 2, seen.append, "test")
    assert seen == [[2, 1], [0]]
    asked = []

    def small_card(rows):
        asked.append(rows)
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no room")

    in_batches([1, 2, 3], 2, small_card, "test")
    assert asked == [[2, 1], [2], [1], [0]]
    with pytest.raises(torch.OutOfMemoryError):
        in_batches([1, 2], 2, fail, "test")
    with pytest.raises(torch.OutOfMemoryError):
        in_batches([4], AUTO, fail, "test")


def fail(rows):
    raise torch.OutOfMemoryError("no room")
