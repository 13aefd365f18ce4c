"""Claims: what papers print, with source and conditions, and what can be said of it."""

from moelora.claims.checks import KINDS, Gain, Remark, check_claims, gains_over_lora
from moelora.claims.claim import Claim, Key, Recipe
from moelora.claims.load import load_claims, load_documents
from moelora.claims.parameters import CountCheck, check_counts
from moelora.claims.verdicts import VERDICTS, Judgement, Measured, judge
from moelora.claims.words import WordVerdict, judge_words

__all__ = [
    "KINDS",
    "VERDICTS",
    "Claim",
    "CountCheck",
    "Gain",
    "Judgement",
    "Key",
    "Measured",
    "Recipe",
    "Remark",
    "WordVerdict",
    "check_claims",
    "check_counts",
    "gains_over_lora",
    "judge",
    "judge_words",
    "load_claims",
    "load_documents",
]
