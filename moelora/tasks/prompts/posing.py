"""From a question to an example of one of our protocols."""

import dataclasses

from moelora.tasks import Choice
from moelora.tasks.prompts import generate_regex, label_logits
from moelora.tasks.protocols import LABEL_LOGITS, family, is_as_coded
from moelora.tasks.questions import Question


@dataclasses.dataclass(frozen=True)
class Posed(Choice):
    """A question as one of our protocols poses it.

    ``prompt`` is what scoring gives the model and ``training`` what training puts before the answer. ``continuations``
    are the answers as training writes them, delimiter included, and ``words`` what the protocol looks for, in the order
    of the continuations (a protocol may look for more). ``ends``: an end-of-text token follows the answer in training.
    ``keeps_start``: a text that is too long loses its end, not its start.
    """

    training: str
    words: tuple[str, ...]
    ends: bool
    keeps_start: bool


def pose(question: Question, form: str, protocol: str, index: int = 0) -> Posed:
    """Return a question under a protocol.

    Args:
        question: the question.
        form: which data set it is from.
        protocol: one of :data:`moelora.tasks.protocols.POSED`.
        index: its number in the split.
    """
    as_coded = is_as_coded(protocol)
    if family(protocol) == LABEL_LOGITS:
        prompt = label_logits.write_prompt(form, question)
        words, answer = label_logits.candidates(form, question, as_coded=as_coded)
        return Posed(
            index, prompt, tuple(f" {word}" for word in words), answer, prompt, words, ends=False, keeps_start=as_coded
        )
    instruction = generate_regex.write_instruction(form, question)
    words = generate_regex.label_words(form, question, as_coded=as_coded)
    return Posed(
        index,
        generate_regex.scoring_prompt(instruction, as_coded=as_coded),
        tuple(generate_regex.write_output(word) for word in words),
        question.answer,
        generate_regex.training_prompt(instruction, as_coded=as_coded),
        words,
        ends=True,
        keeps_start=as_coded,
    )
