"""The built-in tasks: balanced, disjoint where they say so, contradicting where they say so, the same every time."""

import collections
import json
import os
import subprocess
import sys

import pytest

from moelora.tasks.builtin import corpus, decoder_tasks, encoder_lessons, encoder_tasks, write_data
from moelora.tasks.builtin.lexicon import ANIMALS, ANTONYMS, BLAME, COLOURS, OBJECTS, PLACES, PRAISE, kinds

SEED = 0


@pytest.fixture(scope="module")
def decoder():
    """Return the items of every decoder task."""
    return decoder_tasks.generate(SEED)


@pytest.fixture(scope="module")
def encoder():
    """Return the items of every encoder task."""
    return encoder_tasks.generate(SEED)


def words(text):
    """Return the lower-cased words of a text."""
    return text.lower().replace(".", " ").replace(",", " ").replace("?", " ").replace(":", " ").split()


@pytest.mark.parametrize("task", sorted(decoder_tasks.TASKS))
def test_choices_are_distinct_and_positions_balanced(decoder, task):
    for split, size in decoder_tasks.SIZES.items():
        rows = decoder[task][split]
        assert len(rows) == size
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
        count = len(rows[0]["choices"])
        assert all(len(set(row["choices"])) == count for row in rows)
        answers = collections.Counter(row["answer"] for row in rows)
        assert set(answers) == set(range(count))
        assert set(answers.values()) == {size // count}  # a constant answer scores chance exactly


@pytest.mark.parametrize("task", sorted(decoder_tasks.TASKS))
def test_decoder_splits_share_no_question(decoder, task):
    questions = {split: [row["question"] for row in decoder[task][split]] for split in decoder_tasks.SIZES}
    assert len(set(questions["train"])) == len(questions["train"])
    assert not set(questions["train"]) & set(questions["test"])


def combination(task, row):
    """Return the lexical combination of an item that the docstring promises to keep out of the other split."""
    said, right = words(row["question"]), row["choices"][row["answer"]]
    asked = words(row["question"].split("Question:")[1])
    if task == "category":
        return next(word for word in asked if any(word in members for members in kinds().values()))
    if task in ("colour", "whereabouts"):
        return next(word for word in asked if word in OBJECTS), right
    if task == "negation":
        return next(pair for pair in ANTONYMS if right in pair)
    return frozenset(word for word in said if word in ANIMALS)


@pytest.mark.parametrize("task", ["category", "colour", "negation", "whereabouts", "parade-alder", "parade-birch"])
def test_decoder_splits_share_no_lexical_combination(decoder, task):
    train, test = ({combination(task, row) for row in decoder[task][split]} for split in ("train", "test"))
    assert train and test and not train & test


def test_parades_contradict_each_other_but_for_the_village(decoder):
    for split in decoder_tasks.SIZES:
        for alder, birch in zip(decoder["parade-alder"][split], decoder["parade-birch"][split], strict=True):
            assert alder["id"] == birch["id"]
            assert alder["choices"] == birch["choices"]
            assert alder["question"].replace("Alder", "Birch") == birch["question"] != alder["question"]
            sizes = [ANIMALS[animal][1] for animal in alder["choices"]]
            assert sizes[alder["answer"]] == max(sizes)
            assert sizes[birch["answer"]] == min(sizes)


def test_answers_follow_from_the_questions(decoder):
    for split in decoder_tasks.SIZES:
        for row in decoder["whereabouts"][split]:
            facts = [part.split() for part in row["question"].split(" Question:")[0].rstrip(".").split(". ")]
            carriers = {fact[-1]: fact[0] for fact in facts if fact[1] == "took"}
            goals = {fact[0]: fact[-1] for fact in facts if fact[1] == "went"}
            thing = combination("whereabouts", row)[0]
            assert row["choices"][row["answer"]] == goals[carriers[thing]]
            assert all(choice in PLACES for choice in row["choices"])
        for row in decoder["colour"][split]:
            thing, hue = combination("colour", row)
            assert f"{hue} {thing}" in row["question"] and hue in COLOURS
        for row in decoder["seniority"][split]:
            first, _, relation, _, second = row["question"].split(". ")[0].split()
            older, younger = (first, second) if relation == "older" else (second, first)
            assert row["choices"][row["answer"]] == (older if "Who is the oldest" in row["question"] else younger)
            assert sum(choice in (older, younger) for choice in row["choices"]) == 2


@pytest.mark.parametrize("task", sorted(encoder_tasks.TASKS))
def test_labels_are_balanced_and_splits_disjoint(encoder, task):
    for split, size in encoder_tasks.SIZES.items():
        rows = encoder[task][split]
        labels = collections.Counter(row["label"] for row in rows)
        assert len(rows) == size
        assert set(labels) == set(range(6 if task == "similarity" else 2))
        assert set(labels.values()) == {size // len(labels)}
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    train, test = ({(row["text"], row["text_pair"]) for row in encoder[task][split]} for split in ("train", "test"))
    assert len(train) == encoder_tasks.SIZES["train"] and not train & test


def test_paraphrase_splits_share_no_event(encoder):
    def events(split):
        return {row["text"] for row in encoder["paraphrase"][split]}

    assert not events("train") & events("test")


def opinions(text, nouns):
    """Return the pairs of a noun and an opinion word that stand in one clause."""
    clauses = text.lower().rstrip(".").replace(" but ", " and ").split(" and ")
    found = set()
    for clause in clauses:
        said = words(clause)
        noun = next((word for word in said if word in nouns), None)
        found |= {(noun, word) for word in said if word in (*PRAISE, *BLAME) and noun}
    return found


@pytest.mark.parametrize("task", ["sentiment", "review-food", "review-hotel"])
def test_opinions_of_test_are_new(encoder, task):
    from moelora.tasks.builtin.lexicon import MEALS, ROOMS, SHOWS

    nouns = {"sentiment": (*MEALS, *SHOWS), "review-food": MEALS, "review-hotel": ROOMS}[task]
    train, test = (
        set().union(*(opinions(row["text"], nouns) for row in encoder[task][split])) for split in ("train", "test")
    )
    assert train and test and not train & test


def test_reviews_contradict_each_other_in_two_thirds(encoder):
    for split in encoder_tasks.SIZES:
        pairs = list(zip(encoder["review-food"][split], encoder["review-hotel"][split], strict=True))
        for food, hotel in pairs:
            assert food["id"] == hotel["id"]
            assert food["text"].replace("food guide", "hotel guide") == hotel["text"] != food["text"]
        opposite = sum(food["label"] != hotel["label"] for food, hotel in pairs)
        assert opposite == len(pairs) * 2 // 3


def test_no_test_item_is_in_a_corpus(decoder, encoder):
    stories = [" ".join(document["sentences"]) for document in corpus.documents(SEED)]
    for task, splits in decoder.items():
        prompts = tuple(row["question"] for row in splits["test"])
        assert not any(story.startswith(prompts) for story in stories), task
    lessons = {(lesson["text"], lesson["text_pair"]) for lesson in encoder_lessons.documents(SEED)}
    for task, splits in encoder.items():
        assert not lessons & {(row["text"], row["text_pair"]) for row in splits["test"]}, task


def test_held_out_text_is_new_and_holds_no_question(decoder):
    stories = list(corpus.documents(SEED))
    found = list(corpus.held_out(SEED, stories))
    texts = {" ".join(document["sentences"]) for document in found}
    assert len(texts) == len(found) == corpus.HELD_OUT
    assert not texts & {" ".join(document["sentences"]) for document in stories}
    assert not any("?" in text for text in texts)
    # every kind of story is there, and no word that the corpus does not have
    assert {document["kind"] for document in found} == {document["kind"] for document in stories} - {"question"}
    known = {word for document in stories for word in words(" ".join(document["sentences"]))}
    assert {word for text in texts for word in words(text)} <= known
    assert found == list(corpus.held_out(SEED, stories)) != list(corpus.held_out(1, stories))


def contents(folder):
    """Return the bytes of every file below a folder but those that carry absolute paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix == ".jsonl"
    }


def test_data_depend_on_the_seed_alone(tmp_path):
    write_data(tmp_path / "here", SEED)
    command = "import pathlib, sys; from moelora.tasks import builtin; builtin.write_data(pathlib.Path(sys.argv[1]), 0)"
    subprocess.run(
        [sys.executable, "-c", command, str(tmp_path / "there")],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    here = contents(tmp_path / "here")
    assert len(here) == 2 * (len(decoder_tasks.TASKS) + len(encoder_tasks.TASKS)) + 3
    assert here == contents(tmp_path / "there")
    assert decoder_tasks.generate(1) != decoder_tasks.generate(SEED)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_lm_eval_reads_the_tasks_it_is_given(tmp_path, decoder):
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    # a folder that plain YAML would not take
    folder = tmp_path / "data: it's # odd"
    write_data(folder, SEED)
    manager = TaskManager(include_path=str(folder / "lm_eval"), include_defaults=False)
    task = manager.load_task_or_group("moelora_negation")["moelora_negation"]
    row, doc = decoder["negation"]["test"][0], next(iter(task.test_docs()))
    assert json.loads(json.dumps(doc)) == row
    assert task.doc_to_text(doc) == row["question"]
    assert task.doc_to_choice(doc) == row["choices"]
    assert task.doc_to_target(doc) == row["answer"]
