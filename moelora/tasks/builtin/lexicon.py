"""The words of the built-in world and what is true of them.

Everything the generators say is said with these words, so the vocabulary of both base models stays small. Lists are
tuples in a fixed order: the data are a function of the seed and of this file alone.
"""

# People carry no gender, so no pronoun is ever wrong.
NAMES = ("Anna", "Tom", "Maria", "Peter", "Lucy", "James", "Clara", "Simon", "Nora", "Felix")

# Animal -> (kind, size level). Two animals compare only when their levels differ.
ANIMALS = {
    "ant": ("insect", 1), "bee": ("insect", 1), "moth": ("insect", 1), "wasp": ("insect", 1), "beetle": ("insect", 1),
    "mouse": ("mammal", 2), "wren": ("bird", 2), "robin": ("bird", 2), "minnow": ("fish", 2), "sparrow": ("bird", 2),
    "cat": ("mammal", 3), "owl": ("bird", 3), "trout": ("fish", 3), "rabbit": ("mammal", 3), "carp": ("fish", 3),
    "goat": ("mammal", 4), "swan": ("bird", 4), "salmon": ("fish", 4), "sheep": ("mammal", 4), "eagle": ("bird", 4),
    "horse": ("mammal", 5), "bear": ("mammal", 5), "shark": ("fish", 5), "ostrich": ("bird", 5), "camel": ("mammal", 5),
}  # fmt: skip

# Kind -> its members beside the animals.
THINGS = {
    "fruit": ("apple", "pear", "plum", "cherry", "lemon", "grape", "peach"),
    "tool": ("hammer", "saw", "spade", "chisel", "rake", "axe", "drill"),
    "instrument": ("flute", "violin", "harp", "trumpet", "piano", "cello", "lute"),
    "vehicle": ("cart", "train", "wagon", "ferry", "tram", "barge", "coach"),
}

# Portable objects, the colours they come in and the places they are carried to.
OBJECTS = ("book", "cup", "kite", "hat", "lamp", "key", "ball", "box", "coin", "basket", "rope", "drum")
COLOURS = ("red", "blue", "green", "yellow", "black", "white")
PLACES = ("kitchen", "garden", "attic", "cellar", "barn", "market", "library", "school", "chapel", "forest")

# Antonyms; the nouns go with all of them.
ANTONYMS = (
    ("hot", "cold"), ("heavy", "light"), ("old", "new"), ("wet", "dry"), ("clean", "dirty"), ("full", "empty"),
    ("loud", "quiet"), ("soft", "hard"), ("sharp", "blunt"), ("wide", "narrow"), ("thick", "thin"),
    ("rough", "smooth"), ("strong", "weak"), ("tall", "short"), ("cheap", "expensive"),
)  # fmt: skip

# Opinion words. Both lists have one length so that neither label has more ways to be said.
PRAISE = (
    "good",
    "lovely",
    "excellent",
    "pleasant",
    "wonderful",
    "charming",
    "splendid",
    "perfect",
    "delightful",
    "great",
)
BLAME = ("bad", "awful", "terrible", "nasty", "dreadful", "horrible", "shabby", "miserable", "dull", "hideous")
MEALS = ("soup", "bread", "stew", "pie", "cake", "tea", "cheese", "salad")
ROOMS = ("room", "bed", "bath", "view", "hall", "window", "chair", "balcony")
SHOWS = ("play", "song", "film", "story")

# Verb: base, third person, past, participle; a synonym in the same forms, or None.
VERBS = (
    (("help", "helps", "helped", "helped"), ("assist", "assists", "assisted", "assisted")),
    (("find", "finds", "found", "found"), ("discover", "discovers", "discovered", "discovered")),
    (("watch", "watches", "watched", "watched"), ("observe", "observes", "observed", "observed")),
    (("choose", "chooses", "chose", "chosen"), ("select", "selects", "selected", "selected")),
    (("follow", "follows", "followed", "followed"), None),
    (("visit", "visits", "visited", "visited"), None),
    (("thank", "thanks", "thanked", "thanked"), None),
    (("greet", "greets", "greeted", "greeted"), None),
)

# Roles of people: singular, plural; a synonym in the same forms, or None.
ROLES = (
    (("doctor", "doctors"), ("physician", "physicians")),
    (("child", "children"), ("kid", "kids")),
    (("lawyer", "lawyers"), ("attorney", "attorneys")),
    (("writer", "writers"), ("author", "authors")),
    (("teacher", "teachers"), None),
    (("farmer", "farmers"), None),
    (("baker", "bakers"), None),
    (("painter", "painters"), None),
    (("nurse", "nurses"), None),
    (("guard", "guards"), None),
)
MANNERS = ("quietly", "gladly", "slowly", "quickly", "proudly", "politely")

# The two villages of the contradicting decoder tasks; the two guides of the contradicting encoder tasks.
VILLAGES = ("Alder", "Birch")
GUIDES = ("food", "hotel")


def kinds() -> dict[str, tuple[str, ...]]:
    """Return every kind with its members, animals included, kinds and members sorted."""
    members: dict[str, list[str]] = {kind: list(things) for kind, things in THINGS.items()}
    for animal, (kind, _) in ANIMALS.items():
        members.setdefault(kind, []).append(animal)
    return {kind: tuple(sorted(members[kind])) for kind in sorted(members)}
