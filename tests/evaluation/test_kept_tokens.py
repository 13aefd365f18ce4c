"""Texts that lm-eval asks to be tokenised again and again."""

import pytest

from moelora.evaluation.protocols import lm_eval


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(lm_eval, "_kept", {})
    monkeypatch.setattr(lm_eval, "_kept_tokens", 0)


class Named:
    name_or_path = "some/model"


def test_a_text_is_tokenised_once_for_each_vocabulary_and_nobody_can_change_what_is_kept():
    asked = []

    def encode(text):
        asked.append(text)
        return [len(text)]

    first = lm_eval.kept(Named, "a b", encode)
    first.append(0)
    assert lm_eval.kept(Named, "a b", encode) == [3]
    assert asked == ["a b"]
    other = type("Other", (), {"name_or_path": "other/model"})
    assert lm_eval.kept(other, "a b", lambda text: [7]) == [7]


def test_a_tokenizer_without_a_name_is_always_asked():
    nameless = type("Nameless", (), {"name_or_path": ""})
    assert [lm_eval.kept(nameless, "a", lambda text, n=n: [n]) for n in (1, 2)] == [[1], [2]]


def test_memory_is_bounded_and_long_texts_still_come_out_right(monkeypatch):
    monkeypatch.setattr(lm_eval, "KEPT_TOKENS", 10)
    for number in range(20):
        assert lm_eval.kept(Named, str(number), lambda text: [int(text)] * 4) == [number] * 4
        assert sum(map(len, lm_eval._kept.values())) <= 10
    assert lm_eval.kept(Named, "long", lambda text: [1] * 50) == [1] * 50
