"""The words of the built-in world and what is true of them.

Everything the generators say is said with these words, so the vocabulary of both base models stays small. Lists are
tuples in a fixed order: the data are a function of the seed and of this file alone.
"""

# People carry no gender, so no pronoun is ever wrong.
NAMES = (
    "Anna", "Tom", "Maria", "Peter", "Lucy", "James", "Clara", "Simon", "Nora", "Felix", "Ruth", "Oscar",
    "Helen", "Martin", "Julia", "David", "Emma", "Hugo", "Alice", "Robert", "Irene", "Victor", "Laura", "George",
)  # fmt: skip

# Animal -> (kind, size level). Two animals compare only when their levels differ.
ANIMALS = {
    "ant": ("insect", 1), "bee": ("insect", 1), "moth": ("insect", 1), "beetle": ("insect", 1),
    "wasp": ("insect", 1), "cricket": ("insect", 1), "flea": ("insect", 1), "ladybird": ("insect", 1),
    "mouse": ("mammal", 2), "wren": ("bird", 2), "robin": ("bird", 2), "sparrow": ("bird", 2),
    "minnow": ("fish", 2), "herring": ("fish", 2), "mole": ("mammal", 2), "finch": ("bird", 2),
    "cat": ("mammal", 3), "rabbit": ("mammal", 3), "owl": ("bird", 3), "crow": ("bird", 3),
    "trout": ("fish", 3), "hen": ("bird", 3), "carp": ("fish", 3), "otter": ("mammal", 3),
    "dog": ("mammal", 4), "goat": ("mammal", 4), "swan": ("bird", 4), "salmon": ("fish", 4),
    "sheep": ("mammal", 4), "pike": ("fish", 4), "eagle": ("bird", 4), "wolf": ("mammal", 4),
    "horse": ("mammal", 5), "bear": ("mammal", 5), "shark": ("fish", 5), "camel": ("mammal", 5),
    "ostrich": ("bird", 5), "cow": ("mammal", 5), "tuna": ("fish", 5), "elephant": ("mammal", 6),
}  # fmt: skip

# Kind -> its members beside the animals.
THINGS = {
    "fruit": ("apple", "pear", "plum", "cherry", "lemon", "grape", "peach", "melon", "orange", "fig"),
    "vegetable": ("carrot", "onion", "cabbage", "leek", "turnip", "bean", "radish", "pumpkin", "beet", "potato"),
    "tool": ("hammer", "saw", "spade", "chisel", "rake", "axe", "drill", "plane", "wrench", "file"),
    "instrument": ("flute", "violin", "harp", "trumpet", "piano", "cello", "horn", "guitar", "lute", "organ"),
    "vehicle": ("cart", "train", "wagon", "ferry", "tram", "barge", "coach", "sledge", "truck", "canoe"),
    "garment": ("coat", "shirt", "scarf", "glove", "sock", "boot", "apron", "cloak", "vest", "skirt"),
}

# Portable objects, the colours they come in and the places they are carried to.
OBJECTS = (
    "book", "cup", "kite", "hat", "lamp", "key", "ball", "box", "coin", "basket",
    "rope", "drum", "brush", "letter", "blanket", "bottle", "mirror", "candle", "ring", "bell",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple")
PLACES = (
    "kitchen", "garden", "attic", "cellar", "barn", "market", "harbour", "library",
    "school", "chapel", "forest", "meadow", "mill", "bakery", "stable", "tower",
)  # fmt: skip

# Antonyms; the nouns go with all of them.
ANTONYMS = (
    ("hot", "cold"), ("heavy", "light"), ("old", "new"), ("wet", "dry"), ("clean", "dirty"), ("full", "empty"),
    ("loud", "quiet"), ("soft", "hard"), ("sharp", "blunt"), ("wide", "narrow"), ("deep", "shallow"),
    ("thick", "thin"), ("rough", "smooth"), ("fast", "slow"), ("strong", "weak"), ("tall", "short"),
    ("bright", "dim"), ("cheap", "expensive"), ("open", "closed"), ("tight", "loose"), ("straight", "crooked"),
    ("common", "rare"), ("simple", "difficult"), ("sweet", "bitter"),
)  # fmt: skip

# Opinion words. Both lists have one length so that neither label has more ways to be said.
PRAISE = (
    "good", "lovely", "excellent", "pleasant", "wonderful", "charming", "splendid", "superb",
    "fine", "perfect", "delightful", "marvellous", "great", "pretty", "admirable", "brilliant",
)  # fmt: skip
BLAME = (
    "bad", "awful", "terrible", "nasty", "dreadful", "horrible", "poor", "ugly",
    "gloomy", "shabby", "miserable", "disgusting", "dull", "boring", "hideous", "lousy",
)  # fmt: skip
MEALS = ("soup", "bread", "stew", "pie", "cake", "tea", "coffee", "cheese", "pudding", "sauce", "salad", "roast")
ROOMS = ("room", "bed", "bath", "view", "hall", "window", "chair", "balcony", "carpet", "pillow", "stair", "desk")
SHOWS = ("play", "song", "film", "story", "dance", "poem", "concert", "speech")

# Verb: base, third person, past, participle; a synonym in the same forms, or None.
VERBS = (
    (("help", "helps", "helped", "helped"), ("assist", "assists", "assisted", "assisted")),
    (("find", "finds", "found", "found"), ("discover", "discovers", "discovered", "discovered")),
    (("call", "calls", "called", "called"), ("phone", "phones", "phoned", "phoned")),
    (("watch", "watches", "watched", "watched"), ("observe", "observes", "observed", "observed")),
    (("choose", "chooses", "chose", "chosen"), ("select", "selects", "selected", "selected")),
    (("teach", "teaches", "taught", "taught"), ("instruct", "instructs", "instructed", "instructed")),
    (("praise", "praises", "praised", "praised"), None),
    (("follow", "follows", "followed", "followed"), None),
    (("visit", "visits", "visited", "visited"), None),
    (("paint", "paints", "painted", "painted"), None),
    (("thank", "thanks", "thanked", "thanked"), None),
    (("greet", "greets", "greeted", "greeted"), None),
)

# Roles of people: singular, plural; a synonym in the same forms, or None.
ROLES = (
    (("doctor", "doctors"), ("physician", "physicians")),
    (("child", "children"), ("kid", "kids")),
    (("sailor", "sailors"), ("seaman", "seamen")),
    (("lawyer", "lawyers"), ("attorney", "attorneys")),
    (("writer", "writers"), ("author", "authors")),
    (("teacher", "teachers"), None),
    (("farmer", "farmers"), None),
    (("baker", "bakers"), None),
    (("painter", "painters"), None),
    (("nurse", "nurses"), None),
    (("guard", "guards"), None),
    (("artist", "artists"), None),
)
MANNERS = ("quietly", "gladly", "slowly", "quickly", "proudly", "calmly", "politely", "secretly")

# The two villages of the contradicting decoder tasks; the two guides of the contradicting encoder tasks.
VILLAGES = ("Alder", "Birch")
GUIDES = ("food", "hotel")


def kinds() -> dict[str, tuple[str, ...]]:
    """Return every kind with its members, animals included, kinds and members sorted."""
    members: dict[str, list[str]] = {kind: list(things) for kind, things in THINGS.items()}
    for animal, (kind, _) in ANIMALS.items():
        members.setdefault(kind, []).append(animal)
    return {kind: tuple(sorted(members[kind])) for kind in sorted(members)}
