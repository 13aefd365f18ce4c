import itertools
from types import SimpleNamespace

import pytest

from moelora.tasks.builtin import encoder_tasks
from moelora.tasks.builtin.encoder_base import UNKNOWN_MARK, praised_words, repeated_words
from moelora.tasks.builtin.encoder_lessons import MARKS, documents
from moelora.tasks.builtin.lexicon import BLAME, MEALS, PRAISE, ROOMS

SEED = 0
NEGATIONS = ("not", "never", "far")


@pytest.fixture(scope="module")
def lessons():
    return list(itertools.islice(documents(SEED), 3000))


def verdicts(text):
    """Read an opinion the slow way: per clause its noun and whether it is praised."""
    found = {}
    for clause in text.lower().rstrip(".").split(": ")[-1].replace(" but ", " and ").split(" and "):
        words = clause.split()
        negated = any(word in NEGATIONS for word in words)
        found[words[1]] = (words[-1] in PRAISE) != negated
        assert words[-1] in (*PRAISE, *BLAME)
    return found


def test_marks_say_what_the_text_says(lessons):
    seen = set()
    for lesson in lessons:
        assert set(lesson["marks"]) <= set(MARKS)
        seen |= set(lesson["marks"])
        if "opinion" in lesson["marks"]:
            assert list(verdicts(lesson["text"]).values())[-1] == bool(lesson["marks"]["opinion"])
        if "meal" in lesson["marks"]:
            for noun, praised in verdicts(lesson["text"]).items():
                assert noun in MEALS or noun in ROOMS
                assert praised == bool(lesson["marks"]["meal" if noun in MEALS else "room"])
        if "same_place" in lesson["marks"]:
            places = [text.split(" in the " if " in the " in text else "In the ")[-1] for text in
                      (lesson["text"], lesson["text_pair"])]  # fmt: skip
            first, second = (place.rstrip(".").split()[0] for place in places)
            assert (first == second) == bool(lesson["marks"]["same_place"])
    assert seen == set(MARKS)


def test_opinions_leave_the_combinations_of_test_splits_alone(lessons):
    held_out = set()
    for nouns, label in ((MEALS, "review-food"), (ROOMS, "review-hotel")):
        held_out |= set(encoder_tasks.opinion_pairs(nouns, SEED, label)["test"])
    for lesson in lessons:
        pairs = zip(lesson["words"][::2], lesson["words"][1::2], strict=True)
        for (noun, _), (word, _) in pairs:
            index = (PRAISE if word in PRAISE else BLAME).index(word)
            assert (noun, index) not in held_out


def test_word_marks_follow_their_words():
    encoding = SimpleNamespace(ids=[1, 7, 8, 2, 8, 9, 7, 2], type_ids=[0, 0, 0, 0, 1, 1, 1, 1])
    assert repeated_words(encoding, {1, 2}) == [UNKNOWN_MARK] * 4 + [1.0, 0.0, 1.0, UNKNOWN_MARK]
    assert praised_words([5, 6, 7, 6], [(6, 1), (6, 0)]) == [UNKNOWN_MARK, 1.0, UNKNOWN_MARK, 0.0]
