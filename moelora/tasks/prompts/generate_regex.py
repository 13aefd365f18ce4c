"""The instructions, outputs and wrapping of LLM-Adapters, whose answers are generated and searched for a label word.

An item of its data files has ``instruction``, ``input`` (always empty here), ``output`` and ``answer``. Labels are
numbered from 1.

Source: AGI-Edgerunners/LLM-Adapters (Apache-2.0), its data files and the two functions that wrap them, for structure
and wording; the wrapper is Alpaca's. HellaSwag's file could not be read: its form is the one that its users describe.
"""

import re

from moelora.tasks.questions import Question

MARKER = "### Response:"
INDENT = " " * 16
"""As coded, the wrapper is an indented literal, so its indentation is part of the prompt."""

WORDING = {
    "header": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ),
    "output": "the correct answer is ",
    "boolq": "Please answer the following question with true or false, question: ",
    "piqa": "Please choose the correct solution to the question: ",
    "hellaswag": "Please choose the correct ending to complete the given sentence: ",
    "winogrande": "Please choose the correct answer to fill in the blank to complete the given sentence: ",
    "question": "Please choose the correct answer to the question: ",
}
NOUNS = {"piqa": "solution", "hellaswag": "ending", "winogrande": "option"}
CODED_ANSWERS = 5
"""As coded, one expression with five answers serves ARC, OpenBookQA and Social IQa."""


def label_words(form: str, question: Question, *, as_coded: bool) -> tuple[str, ...]:
    """Return the words that are searched for in an answer, in the order of the choices.

    Args:
        form: which data set the question is from.
        question: the question.
        as_coded: search for five answers where the word is ``answer``, however many the question offers.
    """
    if form == "boolq":
        return question.choices
    noun = NOUNS.get(form, "answer")
    count = CODED_ANSWERS if as_coded and noun == "answer" else len(question.choices)
    return tuple(f"{noun}{number}" for number in range(1, count + 1))


def write_instruction(form: str, question: Question) -> str:
    """Return the instruction of an item."""
    lead_in = WORDING.get(form, WORDING["question"])
    words = label_words(form, question, as_coded=False)
    ending = f"Answer format: {'/'.join(words)}"
    if form == "boolq":
        return f"{lead_in}{question.text}?\n\n{ending}"
    named = [f"{word.capitalize()}: {text}" for word, text in zip(words, question.choices, strict=True)]
    if form == "piqa":
        return "\n\n".join([f"{lead_in}{question.text}", *named, ending])
    if form == "winogrande":
        return f"{lead_in}{question.text}\n\n{' '.join([*named, ending])}"
    asked = {"siqa": f"{question.context} {question.text}", "hellaswag": f"{question.context}: {question.text}"}
    return "\n\n".join([f"{lead_in}{asked.get(form, question.text)}", " ".join(named), ending])


def write_output(word: str) -> str:
    """Return the output of an item whose right answer is this label word."""
    return f"{WORDING['output']}{word}"


def training_prompt(instruction: str, *, as_coded: bool) -> str:
    """Return what stands before the output in training.

    As coded the header ends with two spaces, and the line before the marker holds the indentation alone.
    """
    if not as_coded:
        return f"{WORDING['header']}\n\n### Instruction:\n{instruction}\n\n{MARKER}\n"
    lines = [WORDING["header"] + "  ", "", f"{INDENT}### Instruction:", INDENT + instruction, INDENT, INDENT + MARKER]
    return "\n".join([*lines, INDENT])


def scoring_prompt(instruction: str, *, as_coded: bool) -> str:
    """Return what generation continues.

    As coded the header ends with one space, and the line before the marker is empty: not the text of training.
    """
    if not as_coded:
        return training_prompt(instruction, as_coded=False)
    lines = [WORDING["header"] + " ", "", f"{INDENT}### Instruction:", INDENT + instruction, "", INDENT + MARKER]
    return "\n".join([*lines, INDENT])


def find_word(response: str, words: tuple[str, ...]) -> int:
    """Return the place among the words of the first that stands in a response, with its case; -1 where none does."""
    found = re.search("|".join(re.escape(word) for word in words), response)
    return words.index(found.group()) if found else -1
