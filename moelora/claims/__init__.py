"""Claims: what papers print, with source and conditions, and what can be said of it."""

from moelora.claims.checks import Remark, check_claims
from moelora.claims.claim import Claim, Key, Recipe
from moelora.claims.load import load_claims, load_documents
from moelora.claims.parameters import CountCheck, check_counts

__all__ = [
    "Claim",
    "CountCheck",
    "Key",
    "Recipe",
    "Remark",
    "check_claims",
    "check_counts",
    "load_claims",
    "load_documents",
]
