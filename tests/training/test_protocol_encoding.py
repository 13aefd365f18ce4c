"""What a decoder is trained on under each protocol: the protocol's own prompt, then the answer."""

import sys
from pathlib import Path

import pytest
from world import task_document

from moelora.tasks import Choice, Task
from moelora.tasks.prompts.posing import pose
from moelora.tasks.questions import Question
from moelora.training.encode import IGNORED, collate, encode

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from oracle import make_tokenizer

QUESTION = Question("What floats?", ("lead", "cork"), 1, ("A", "B"))
PAD = " " * 16


def encoded(protocol, max_length=512):
    """Return the tokenizer and the training example of one question."""
    example = pose(QUESTION, "arc", protocol)
    texts = [example.prompt, example.training, *example.continuations]
    tokenizer = make_tokenizer([*texts, *(text + answer for text in texts for answer in example.continuations)])
    document = task_document("pick", "multiple_choice") | {"protocol": protocol}
    (found,) = encode(Task(document, (), (), ""), [example], tokenizer, max_length)
    return tokenizer, found


def parts(tokenizer, found):
    """Return the text before the answer, and what the loss counts."""
    return tokenizer.decode(found.ids[: found.label]), tokenizer.decode(found.ids[found.label :])


@pytest.mark.parametrize("protocol", ["label-logits", "label-logits-as-coded"])
def test_label_words_follow_the_marker_and_nothing_follows_them(protocol):
    prompt, answer = parts(*encoded(protocol))
    assert prompt == "Please choose the correct answer to the question: What floats? (A) lead (B) cork\nAnswer:"
    assert answer == " B"


def test_outputs_follow_the_wrapper_and_end_the_text():
    tokenizer, found = encoded("generate-regex")
    prompt, answer = parts(tokenizer, found)
    assert prompt.endswith("Answer format: answer1/answer2\n\n### Response:\n")
    assert answer == "the correct answer is answer2</s>"
    tensors = collate([found], tokenizer.pad_token_id, "multiple_choice")
    counted = tensors["input_ids"][tensors["labels"] != IGNORED]
    assert tokenizer.decode(counted) == answer


def test_training_as_coded_has_the_white_space_of_training():
    prompt, answer = parts(*encoded("generate-regex-as-coded"))
    assert f"request.  \n\n{PAD}### Instruction:\n{PAD}Please" in prompt
    assert f"answer1/answer2\n{PAD}\n{PAD}### Response:\n" in prompt
    assert (prompt + answer).endswith(f"### Response:\n{PAD}the correct answer is answer2</s>")


@pytest.mark.parametrize("protocol", ["label-logits", "generate-regex"])
def test_a_text_that_is_too_long_loses_its_start(protocol):
    _, whole = encoded(protocol)
    _, cut = encoded(protocol, len(whole.ids) - 3)
    assert cut.ids == whole.ids[3:] and cut.label == whole.label - 3


def test_as_coded_a_text_that_is_too_long_loses_its_end():
    _, whole = encoded("label-logits-as-coded")
    _, cut = encoded("label-logits-as-coded", len(whole.ids) - 3)
    assert cut.ids == whole.ids[:-3]
    assert cut.label == len(cut.ids) - 1  # its answer is gone; one token stays, or the batch would have no loss
    tokenizer, ended = encoded("generate-regex-as-coded")
    _, full = encoded("generate-regex-as-coded", len(ended.ids) - 1)
    assert ended.ids[-1] == tokenizer.eos_token_id
    assert full.ids == ended.ids[:-1]  # no room for the end of text


def test_lm_evals_tasks_are_encoded_as_before():
    example = Choice(0, "What floats?", (" lead", " cork"), 1)
    tokenizer = make_tokenizer(["What floats? cork lead"])
    (found,) = encode(Task(task_document("pick", "multiple_choice"), (), (), ""), [example], tokenizer, 32)
    assert parts(tokenizer, found) == ("What floats?", " cork")
