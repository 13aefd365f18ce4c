"""The prompts and label words of MoE-PEFT, whose tasks are scored by the logits of label words.

The prompt ends with its answer marker, without a space. A label word follows after one space.

Source: TUDB-Labs/MoE-PEFT, ``moe_peft/tasks/qa_tasks.py`` (Apache-2.0), for structure and wording.
"""

from moelora.tasks.questions import Question

LETTERS = "ABCDE"
ARC_CANDIDATES = ("1", "2", "3", "4", "A", "B", "C", "D", "E")
"""As coded, any question of ARC may be answered with any of these, whatever labels it offers."""

WORDING = {
    "question": "Please choose the correct answer to the question",
    "boolq": "Please answer the following question with true or false",
    "piqa": (
        "Below is a common task along with two possible solutions labeled (A) and (B).",
        "Please select the appropriate solution to achieve the task:",
    ),
    "hellaswag": "Please choose the correct ending to complete the given sentence.",
    "winogrande": "Please choose the correct answer to fill in the blank to complete the given sentence.",
}


def write_prompt(form: str, question: Question) -> str:
    """Return the prompt of a question, up to and with its answer marker."""
    if form in ("arc", "openbookqa"):
        offered = "".join(f" ({label}) {text}" for label, text in zip(question.labels, question.choices, strict=True))
        return f"{WORDING['question']}: {question.text}{offered}\nAnswer:"
    if form == "boolq":  # the passage is left out
        return f"{WORDING['boolq']}: {question.text}?\nAnswer:"
    lettered = [f"({letter}) {text}" for letter, text in zip(LETTERS, question.choices, strict=False)]
    if form == "piqa":
        task, demand = WORDING["piqa"]
        return "\n".join([f"{task} {demand}", question.text, "", *lettered, "", "Correct solution:"])
    first, second = {
        "siqa": (f"{WORDING['question']}.", f"Question: {question.context} {question.text}"),
        "hellaswag": (WORDING["hellaswag"], f"Sentence: {question.context}. {question.text}"),
        "winogrande": (WORDING["winogrande"], f"Sentence: {question.text}"),
    }[form]
    return "\n".join([first, second, *lettered, "Answer:"])


def candidates(form: str, question: Question, *, as_coded: bool) -> tuple[tuple[str, ...], int]:
    """Return the label words that are ranked and the place of the right one.

    Args:
        form: which data set the question is from.
        question: the question.
        as_coded: rank all nine candidates of ARC rather than the labels that the question offers.
    """
    if form == "boolq":
        return question.choices, question.answer
    words = question.labels or tuple(LETTERS[: len(question.choices)])
    if as_coded and form == "arc":
        return ARC_CANDIDATES, ARC_CANDIDATES.index(words[question.answer])
    return words, question.answer
