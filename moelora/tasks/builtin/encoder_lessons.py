"""What the built-in encoder is pretrained on: sentences with marks that say what they hold.

A masked language model of this size learns too little in a minute. So its sentences carry marks, some for the whole
text (is the opinion favourable, do two events share their place) and some for single words (is this thing praised, was
this word said in the other sentence), which it learns to tell beside guessing masked words. Marks are about the
language; how a task combines them, and whose guide counts in a review, is left to fine-tuning.

Only lexical combinations of train splits are used, and no item of a test split occurs (tested).
"""

from collections.abc import Iterator

from moelora.tasks.builtin import encoder_tasks
from moelora.tasks.builtin.encoder_tasks import agreement, opinion
from moelora.tasks.builtin.grammar import derive, divide, scene, sentence, tell
from moelora.tasks.builtin.lexicon import BLAME, GUIDES, MANNERS, MEALS, PLACES, PRAISE, ROLES, ROOMS, SHOWS, VERBS

LESSONS = 20000
# A lesson is (text, second text or None, marks of the text, marks of words in the order of the words).
Lesson = tuple[str, "str | None", dict[str, int], list[tuple[str, int]]]
MARKS = (
    "grammatical",
    "meal",
    "opinion",
    "room",
    *(f"same_{part}" for part in ("agent", "manner", "patient", "place", "verb")),
)


class Lessons:
    """Draws lessons from the lexical combinations that every task leaves to training."""

    def __init__(self, seed: int):
        self.rng = derive(seed, "corpus", "encoder")
        pairs = {
            label: set(encoder_tasks.opinion_pairs(nouns, seed, label)["train"])
            for label, nouns in (
                ("sentiment", (*SHOWS, *MEALS)), ("review-food", MEALS), ("review-hotel", ROOMS),
            )
        }  # fmt: skip
        both = pairs["sentiment"] & pairs["review-food"]
        self.meals = sorted(both)
        self.rooms = sorted(pairs["review-hotel"])
        self.any = sorted(both | pairs["review-hotel"] | {pair for pair in pairs["sentiment"] if pair[0] in SHOWS})
        events = [(a, v, p) for a in ROLES for v in VERBS for p in ROLES if a is not p]
        self.events = divide(events, seed, "paraphrase")["train"]

    def clause(self, pairs: list[tuple[str, int]], favourable: bool) -> tuple[str, list[tuple[str, int]]]:
        """Return an opinion and the marks of its noun and its opinion word."""
        noun, index = self.rng.choice(pairs)
        negated = self.rng.random() < 0.4
        word = (PRAISE if favourable != negated else BLAME)[index]
        return opinion(noun, word, negated, self.rng), [(noun, int(favourable)), (word, int(favourable))]

    def opinion(self) -> Lesson:
        """Give an opinion, or two of which the one after "but" counts."""
        favourable = self.rng.random() < 0.5
        text, words = self.clause(self.any, favourable)
        if self.rng.random() < 0.5:
            first, earlier = self.clause(self.any, not favourable)
            text, words = f"{first} but {text}", earlier + words
        return sentence(text), None, {"opinion": int(favourable)}, words

    def review(self) -> Lesson:
        """Judge a meal and a room, for a guide or for nobody."""
        meal = self.rng.random() < 0.5
        # Mostly opposite: were they often equal, their mean would tell each well enough, and nothing more be learnt.
        verdicts = {"meal": meal, "room": meal if self.rng.random() < 0.38 else not meal}
        halves = [self.clause(self.meals, verdicts["meal"]), self.clause(self.rooms, verdicts["room"])]
        self.rng.shuffle(halves)
        text = f"{halves[0][0]} and {halves[1][0]}"
        if self.rng.random() < 0.5:
            text = f"for the {self.rng.choice(GUIDES)} guide: {text}"
        return sentence(text), None, {key: int(value) for key, value in verdicts.items()}, halves[0][1] + halves[1][1]

    def pair(self) -> Lesson:
        """Tell two events and mark which parts they share."""
        rng, event, other = self.rng, scene(self.rng), {}
        event["agent"], event["verb"], event["patient"] = rng.choice(self.events)
        kept = {part for part in sorted(event) if rng.random() < 0.5} if rng.random() < 0.7 else set(event)
        for part, choices in (("verb", VERBS), ("place", PLACES), ("manner", MANNERS)):
            other[part] = event[part] if part in kept else rng.choice([c for c in choices if c != event[part]])
        used = [event["agent"], event["patient"]]
        for part in ("agent", "patient"):
            if part not in kept:
                used.append(rng.choice([role for role in ROLES if role not in used]))
            other[part] = event[part] if part in kept else used[-1]
        if len(kept) == len(event) and rng.random() < 0.4:
            other["agent"], other["patient"] = event["patient"], event["agent"]
            kept -= {"agent", "patient"}
        marks = {f"same_{part}": int(part in kept) for part in sorted(event)}
        first = tell(event, rng, passive=rng.random() < 0.3)
        return first, tell(other, rng, passive=rng.random() < 0.5, synonyms=rng.random() < 0.5), marks, []

    def grammar(self) -> Lesson:
        """Say something in the present tense, mostly by the rules; most often nobody says whether it was."""
        by_rule = self.rng.random() < 0.6
        marks = {"grammatical": int(by_rule)} if self.rng.random() < 0.3 else {}
        return sentence(" ".join(agreement(self.rng, broken=not by_rule))), None, marks, []


def documents(seed: int) -> Iterator[dict]:
    """Yield the lessons: ``{"text": …, "text_pair": …, "marks": {mark: 0 or 1}, "words": [[word, 0 or 1], …]}``."""
    lessons = Lessons(seed)
    kinds = (lessons.opinion, *[lessons.review] * 3, *[lessons.pair] * 2, lessons.grammar)
    tests = {
        (row["text"], row["text_pair"]) for splits in encoder_tasks.generate(seed).values() for row in splits["test"]
    }
    count = 0
    while count < LESSONS:
        text, text_pair, marks, words = lessons.rng.choice(kinds)()
        if (text, text_pair) not in tests:
            yield {"text": text, "text_pair": text_pair, "marks": marks, "words": words}
            count += 1
