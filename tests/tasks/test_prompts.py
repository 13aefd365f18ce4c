"""Prompts of the two protocols of our own against their description, character by character."""

import pytest

from moelora.errors import ConfigError
from moelora.tasks.prompts import generate_regex, label_logits
from moelora.tasks.prompts.posing import pose
from moelora.tasks.questions import READERS, Question, read_questions

ROWS = {
    "arc": {
        "id": "x", "question": "What floats?", "answerKey": "C",
        "choices": {"text": ["lead", "iron", "cork", "gold"], "label": ["A", "B", "C", "D"]},
    },
    "openbookqa": {
        "id": "x", "question_stem": "Bees make", "answerKey": "B",
        "choices": {"text": ["milk", "honey", "silk", "salt"], "label": ["A", "B", "C", "D"]},
    },
    "boolq": {"question": "is the sky blue", "passage": "The sky is blue.", "idx": 0, "label": 0},
    "piqa": {"goal": "Dry a cup.", "sol1": "Use a towel.", "sol2": "Use water.", "label": 0},
    "siqa": {
        "context": "Ann fell.", "question": "How does Ann feel?", "answerA": "glad", "answerB": "hurt",
        "answerC": "rich", "label": "2",
    },
    "hellaswag": {
        "activity_label": "Baking", "ctx_a": "A man opens", "ctx": "A man opens the oven. He", "label": "3",
        "endings": ["sings.", "flies.", "sleeps.", "takes out bread."],
    },
    "winogrande": {
        "sentence": "The cup was not in the bag because _ was too big.", "option1": "cup", "option2": "bag",
        "answer": "1",
    },
}  # fmt: skip

# ¶ is a newline: structure of section 24 of the notes, with the wording of the program's source
MOE_PEFT = {
    "arc": "Please choose the correct answer to the question: What floats? (A) lead (B) iron (C) cork (D) gold¶Answer:",
    "openbookqa": (
        "Please choose the correct answer to the question: Bees make (A) milk (B) honey (C) silk (D) salt¶Answer:"
    ),
    "boolq": "Please answer the following question with true or false: is the sky blue?¶Answer:",
    "piqa": (
        "Below is a common task along with two possible solutions labeled (A) and (B). "
        "Please select the appropriate solution to achieve the task:¶Dry a cup.¶¶(A) Use a towel.¶(B) Use water.¶¶"
        "Correct solution:"
    ),
    "siqa": (
        "Please choose the correct answer to the question.¶Question: Ann fell. How does Ann feel?¶(A) glad¶(B) hurt¶"
        "(C) rich¶Answer:"
    ),
    "hellaswag": (
        "Please choose the correct ending to complete the given sentence.¶Sentence: Baking. A man opens the oven. He¶"
        "(A) sings.¶(B) flies.¶(C) sleeps.¶(D) takes out bread.¶Answer:"
    ),
    "winogrande": (
        "Please choose the correct answer to fill in the blank to complete the given sentence.¶"
        "Sentence: The cup was not in the bag because _ was too big.¶(A) cup¶(B) bag¶Answer:"
    ),
}

# section 25: instruction, label words in order, place of the right one
LLM_ADAPTERS = {
    "arc": (
        "Please choose the correct answer to the question: What floats?¶¶"
        "Answer1: lead Answer2: iron Answer3: cork Answer4: gold¶¶Answer format: answer1/answer2/answer3/answer4",
        ("answer1", "answer2", "answer3", "answer4"), 2,
    ),
    "openbookqa": (
        "Please choose the correct answer to the question: Bees make¶¶"
        "Answer1: milk Answer2: honey Answer3: silk Answer4: salt¶¶Answer format: answer1/answer2/answer3/answer4",
        ("answer1", "answer2", "answer3", "answer4"), 1,
    ),
    "boolq": (
        "Please answer the following question with true or false, question: is the sky blue?¶¶"
        "Answer format: true/false",
        ("true", "false"), 1,
    ),
    "piqa": (
        "Please choose the correct solution to the question: Dry a cup.¶¶"
        "Solution1: Use a towel.¶¶Solution2: Use water.¶¶"
        "Answer format: solution1/solution2",
        ("solution1", "solution2"), 0,
    ),
    "siqa": (
        "Please choose the correct answer to the question: Ann fell. How does Ann feel?¶¶"
        "Answer1: glad Answer2: hurt Answer3: rich¶¶Answer format: answer1/answer2/answer3",
        ("answer1", "answer2", "answer3"), 1,
    ),
    "hellaswag": (
        "Please choose the correct ending to complete the given sentence: Baking: A man opens the oven. He¶¶"
        "Ending1: sings. Ending2: flies. Ending3: sleeps. Ending4: takes out bread.¶¶"
        "Answer format: ending1/ending2/ending3/ending4",
        ("ending1", "ending2", "ending3", "ending4"), 3,
    ),
    "winogrande": (
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "The cup was not in the bag because _ was too big.¶¶"
        "Option1: cup Option2: bag Answer format: option1/option2",
        ("option1", "option2"), 0,
    ),
}  # fmt: skip

HEADER = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def question(form):
    return READERS[form](ROWS[form])


@pytest.mark.parametrize("form", ROWS)
def test_prompts_of_moe_peft(form):
    assert label_logits.write_prompt(form, question(form)) == MOE_PEFT[form].replace("¶", "\n")


@pytest.mark.parametrize("form", ROWS)
def test_instructions_of_llm_adapters(form):
    instruction, words, answer = LLM_ADAPTERS[form]
    found = question(form)
    assert generate_regex.write_instruction(form, found) == instruction.replace("¶", "\n")
    assert generate_regex.label_words(form, found, as_coded=False) == words
    assert found.answer == answer
    posed = pose(found, form, "generate-regex", 7)
    assert (posed.id, posed.answer) == (7, answer)
    assert posed.continuations[answer] == f"the correct answer is {words[answer]}"


def test_wrappers_as_coded():
    instruction = "Say yes.\n\nAnswer format: yes/no"
    pad = " " * 16
    training = f"{HEADER}  \n\n{pad}### Instruction:\n{pad}{instruction}\n{pad}\n{pad}### Response:\n{pad}"
    scoring = f"{HEADER} \n\n{pad}### Instruction:\n{pad}{instruction}\n\n{pad}### Response:\n{pad}"
    assert generate_regex.training_prompt(instruction, as_coded=True) == training
    assert generate_regex.scoring_prompt(instruction, as_coded=True) == scoring


def test_wrapper_without_peculiar_white_space_is_one_text_for_training_and_scoring():
    text = f"{HEADER}\n\n### Instruction:\nSay yes.\n\n### Response:\n"
    assert generate_regex.training_prompt("Say yes.", as_coded=False) == text
    assert generate_regex.scoring_prompt("Say yes.", as_coded=False) == text


def test_candidates_with_and_without_the_nine_of_arc():
    found = question("arc")
    assert label_logits.candidates("arc", found, as_coded=False) == (("A", "B", "C", "D"), 2)
    assert label_logits.candidates("arc", found, as_coded=True) == (tuple("1234ABCDE"), 6)
    digits = Question("Which?", ("a", "b", "c"), 1, ("1", "2", "3"))
    assert label_logits.candidates("arc", digits, as_coded=False) == (("1", "2", "3"), 1)
    assert label_logits.candidates("arc", digits, as_coded=True) == (tuple("1234ABCDE"), 1)
    assert label_logits.candidates("openbookqa", question("openbookqa"), as_coded=True) == (tuple("ABCD"), 1)
    assert label_logits.candidates("boolq", question("boolq"), as_coded=True) == (("true", "false"), 1)
    for form, letters, answer in (
        ("piqa", "AB", 0),
        ("siqa", "ABC", 1),
        ("hellaswag", "ABCD", 3),
        ("winogrande", "AB", 0),
    ):
        for as_coded in (False, True):
            assert label_logits.candidates(form, question(form), as_coded=as_coded) == (tuple(letters), answer)


def test_training_text_is_the_prompt_a_space_and_the_label():
    for protocol in ("label-logits", "label-logits-as-coded"):
        posed = pose(question("arc"), "arc", protocol)
        assert posed.training == posed.prompt and not posed.ends
        assert posed.continuations[posed.answer] == " C"


def test_words_that_are_searched_for():
    as_coded = ("answer1", "answer2", "answer3", "answer4", "answer5")
    assert generate_regex.label_words("siqa", question("siqa"), as_coded=True) == as_coded
    assert generate_regex.label_words("winogrande", question("winogrande"), as_coded=True) == ("option1", "option2")


@pytest.mark.parametrize(
    "response, place",
    [
        ("the correct answer is answer2", 1),
        ("answer3 or answer1", 2),  # the first in the response, not in the list
        ("Answer1", -1),  # with its case
        ("", -1),
        ("answers answer4", -1),
    ],
)
def test_first_match(response, place):
    assert generate_regex.find_word(response, ("answer1", "answer2", "answer3")) == place


def test_the_format_line_decides_where_it_is_repeated():
    assert generate_regex.find_word("Answer format: true/false. false", ("true", "false")) == 0


def test_rows_without_an_answer_are_refused():
    with pytest.raises(ConfigError, match=r"here: row 1 .*cannot be scored"):
        read_questions("piqa", [ROWS["piqa"], {**ROWS["piqa"], "label": -1}], "here")
    with pytest.raises(ConfigError, match=r"row 0 is no question of the form 'hellaswag'.*cannot be scored"):
        read_questions("hellaswag", [{**ROWS["hellaswag"], "label": ""}], "here")
    with pytest.raises(ConfigError, match="row 0 is no question of the form 'siqa'"):
        read_questions("siqa", [ROWS["piqa"]], "here")
    with pytest.raises(ConfigError, match="no prompts of the form 'ark'"):
        read_questions("ark", [], "here")


def test_the_two_columns_of_boolq_answers():
    assert READERS["boolq"]({"question": "q", "passage": "p", "answer": True}).answer == 0
    assert READERS["boolq"]({"question": "q", "passage": "p", "label": 1}).answer == 0
