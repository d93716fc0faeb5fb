"""The small world that the tiny base lives in: its people, places, animals, food and complaints.

Imported by make_corpus.py; holds data and the template expander, nothing to run.
"""

from __future__ import annotations

import random
import re

GIRLS = "Anna Ella Lucy Mary Rose Nina Clara Ida Molly Sara Lily Emma Jane Ruth Polly Tess Grace Nora".split()
BOYS = "Tom Ben Max Jack Will Sam Peter Leo Finn Adam Noah Paul Hugo Oscar Henry Luke Owen Joe".split()

# role -> (name, sex, what they do, where)
ROLES: dict[str, tuple[str, str, str, str]] = {
    "baker": ("Mr. Hill", "m", "bakes bread and cakes", "the bakery"),
    "teacher": ("Mrs. Reed", "f", "teaches the children to read and write", "the school"),
    "doctor": ("Dr. Moss", "m", "helps sick people", "the clinic"),
    "nurse": ("Nurse May", "f", "looks after sick people", "the clinic"),
    "shopkeeper": ("Mrs. Lane", "f", "sells food and clothes", "the shop"),
    "carpenter": ("Mr. Wood", "m", "makes tables and chairs", "the workshop"),
    "farmer": ("Mr. Brook", "m", "grows corn and keeps cows", "the farm"),
    "fisherman": ("Old Jim", "m", "catches fish", "the lake"),
    "miller": ("Mrs. Stone", "f", "grinds corn into flour", "the mill"),
    "postman": ("Mr. Swift", "m", "brings letters to every house", "the post office"),
    "gardener": ("Mrs. Green", "f", "grows flowers and vegetables", "the garden"),
    "librarian": ("Miss Page", "f", "lends books to everybody", "the library"),
    "shepherd": ("Old Martha", "f", "looks after the sheep", "the hill"),
    "tailor": ("Mr. Thread", "m", "makes coats and shirts", "the tailor's shop"),
}

# place -> where it is (fixed map of the village)
MAP: dict[str, str] = {
    "the school": "next to the church",
    "the clinic": "behind the old willow tree",
    "the bakery": "on the market square",
    "the shop": "beside the bakery",
    "the mill": "by the river",
    "the farm": "outside the village",
    "the library": "across from the school",
    "the post office": "near the bridge",
    "the workshop": "at the end of the street",
    "the church": "on the market square",
    "the lake": "behind the forest",
    "the garden": "behind the church",
}

PLACES = [
    "the river", "the market", "the school", "the shop", "the mill", "the farm", "the forest", "the hill", "the lake",
    "the garden", "the bridge", "the barn", "the orchard", "the meadow", "the church", "the bakery", "the well",
]

# animal -> (eats, sound verb, lives in, gives or does)
ANIMALS: dict[str, tuple[str, str, str, str]] = {
    "dog": ("meat and bones", "barks", "a small wooden house", "guards the house"),
    "cat": ("fish and mice", "meows", "the house", "catches mice"),
    "horse": ("hay and apples", "neighs", "the stable", "pulls the cart"),
    "cow": ("grass and hay", "moos", "the barn", "gives milk"),
    "goat": ("grass and leaves", "bleats", "the meadow", "gives milk"),
    "hen": ("corn and seeds", "clucks", "the hen house", "lays eggs"),
    "duck": ("bread and water plants", "quacks", "the pond", "swims on the water"),
    "sheep": ("grass", "bleats", "the hill", "gives wool"),
    "donkey": ("hay and carrots", "brays", "the stable", "carries heavy bags"),
    "rabbit": ("carrots and green leaves", "makes no sound", "a hole in the meadow", "hops through the grass"),
    "pig": ("potatoes and corn", "grunts", "the sty", "rolls in the mud"),
    "owl": ("mice", "hoots", "an old tree", "flies at night"),
    "bee": ("sweet juice from flowers", "buzzes", "the hive", "makes honey"),
    "frog": ("flies", "croaks", "the pond", "jumps from leaf to leaf"),
}
PETS = ["dog", "cat", "goat", "rabbit", "duck", "hen", "donkey", "horse", "sheep", "pig"]
PET_NAMES = "Spot Bella Bruno Daisy Coco Pip Rusty Snowy Biscuit Pepper Misty Button Clover Teddy".split()

COLORS = "brown black white grey red golden yellow blue green".split()
FURS = "brown black white grey golden spotted".split()
FOODS = [
    "bread", "soup", "cheese", "honey", "milk", "butter", "fish", "rice", "jam", "apple pie", "porridge", "potatoes", "carrots",
    "apples", "pears", "eggs", "cakes", "berries", "onions", "plums", "nuts", "beans",
]
FOOD_BITS = ["a loaf of bread", "a piece of cheese", "an apple", "a pear", "a slice of cake", "a bowl of soup", "a cup of milk",
             "a jar of honey", "a boiled egg", "a plate of beans", "a bag of nuts", "a basket of berries", "some butter",
             "some potatoes", "some carrots", "some fresh fish", "some plums", "a glass of water", "a cup of tea"]
THINGS = ["a ball", "a book", "a hat", "a coat", "a kite", "a lamp", "a bell", "a key", "a box", "a cup", "a chair", "a boat", "a scarf",
          "a pencil", "a blanket", "a basket", "a ring", "a drum", "a map", "a flute", "a knife", "a rope", "a shirt", "a doll"]
BROKEN = ["fence", "roof", "door", "cart", "chair", "table", "window", "gate", "boat", "bridge", "clock", "bucket", "wheel", "lamp"]

# weather -> (sentence, what people do, what to wear or take)
WEATHER: dict[str, tuple[str, str, str]] = {
    "rainy": ("It is raining", "stay inside and read", "take your coat and your boots"),
    "sunny": ("The sun is shining", "play outside", "wear a hat and drink enough water"),
    "windy": ("A strong wind is blowing", "fly their kites", "hold on to your hat"),
    "snowy": ("It is snowing", "build a snowman", "wear your warm gloves and a scarf"),
    "foggy": ("Thick fog lies over the village", "walk slowly", "take a lamp with you"),
    "stormy": ("A storm is coming", "close all the windows", "stay at home until it is over"),
    "cold": ("It is very cold", "sit by the fire", "put on your warm coat"),
    "hot": ("It is very hot", "swim in the lake", "stay in the shade and drink water"),
}

# complaint -> (noun phrase, statements of "I", statements of "he/she", advice as imperatives)
COMPLAINTS: dict[str, tuple[str, list[str], list[str], list[str]]] = {
    "cough": ("a cough", ["I have a bad cough", "I cough all night", "I cannot stop coughing"], ["has a bad cough", "coughs all night", "cannot stop coughing"],
              ["drink warm tea with honey", "rest at home", "stay away from smoke"]),
    "cold": ("a cold", ["I have a cold", "My nose is running", "I sneeze all day"], ["has a cold", "sneezes all day", "has a runny nose"],
             ["drink a lot of warm tea", "keep warm", "sleep a lot"]),
    "headache": ("a headache", ["I have a headache", "My head hurts", "My head aches badly"], ["has a headache", "has a bad headache"],
                 ["lie down in a dark room", "drink a glass of water", "close your eyes for a while"]),
    "fever": ("a fever", ["I have a fever", "I feel very hot", "I have had a fever since yesterday"], ["has a fever", "feels very hot", "has a hot forehead"],
              ["stay in bed", "drink plenty of water", "put a cool cloth on the forehead"]),
    "throat": ("a sore throat", ["I have a sore throat", "My throat hurts", "It hurts when I swallow"], ["has a sore throat", "cannot swallow well"],
               ["drink warm milk with honey", "wear a scarf", "do not talk too much"]),
    "stomach": ("a stomach ache", ["I have a stomach ache", "My stomach hurts", "I ate too many plums and my belly hurts"], ["has a stomach ache", "ate too much and feels sick"],
                ["eat only dry bread today", "drink mint tea", "keep a warm bottle on the belly"]),
    "ear": ("an earache", ["I have an earache", "My ear hurts", "My left ear aches"], ["has an earache", "holds one ear and cries"],
            ["keep the ear warm", "stay out of the wind", "do not go swimming"]),
    "tooth": ("a toothache", ["I have a toothache", "My tooth hurts", "My tooth aches when I eat"], ["has a toothache", "cannot chew well"],
              ["rinse the mouth with salt water", "eat soft food", "do not eat sweets"]),
    "rash": ("a rash", ["I have a rash on my arm", "My skin is red and itchy", "I have red spots on my skin"], ["has a rash", "has red spots on the skin"],
             ["wash the skin with cool water", "do not scratch it", "wear soft clothes"]),
    "cut": ("a cut", ["I cut my finger", "I have a cut on my hand", "I cut myself with a knife"], ["has a cut on the hand", "has a cut finger"],
            ["wash the cut with clean water", "put a clean bandage on it", "keep it dry"]),
    "burn": ("a burn", ["I burned my hand", "I touched the hot stove", "I have a small burn"], ["has a small burn", "touched the hot stove"],
             ["hold it under cool water", "cover it with a clean cloth", "do not put butter on it"]),
    "ankle": ("a sore ankle", ["I hurt my ankle", "My ankle is swollen", "I fell and twisted my ankle"], ["has a sore ankle", "fell and twisted an ankle"],
              ["rest the foot", "put a cold cloth on it", "keep the leg up"]),
    "back": ("a sore back", ["My back hurts", "I have a sore back", "My back aches after work"], ["has a sore back", "has a bad back"],
             ["do not lift heavy things", "keep the back warm", "take a short walk every day"]),
    "eyes": ("sore eyes", ["My eyes are sore", "My eyes are red", "My eyes hurt when I read"], ["has sore eyes", "has red eyes"],
             ["rest the eyes", "wash them with clean water", "do not read in the dark"]),
    "tired": ("tiredness", ["I am always tired", "I feel tired all day", "I am tired and weak"], ["is always tired", "feels tired all day"],
              ["go to bed early", "eat enough fruit", "take a walk in the fresh air"]),
    "sting": ("a bee sting", ["A bee stung me", "I have a bee sting", "A bee stung my hand"], ["has a bee sting", "was stung by a bee"],
              ["pull out the sting", "put a cold cloth on it", "do not scratch it"]),
    "sleep": ("bad sleep", ["I cannot sleep", "I sleep badly", "I lie awake all night"], ["cannot sleep", "sleeps badly"],
              ["drink warm milk before bed", "keep the room dark", "do not eat late"]),
    "knee": ("a sore knee", ["My knee hurts", "I fell on my knee", "I have a sore knee"], ["has a sore knee", "fell and hurt a knee"],
             ["wash the knee", "rest the leg", "put a cold cloth on it"]),
    "dizzy": ("dizziness", ["I feel dizzy", "My head is spinning", "I am dizzy when I stand up"], ["feels dizzy", "is dizzy in the morning"],
              ["sit down at once", "drink some water", "stand up slowly"]),
    "blister": ("a blister", ["I have a blister on my foot", "My new shoes hurt my feet", "I have a blister on my toe"], ["has a blister on one foot", "has a sore toe"],
                ["wear soft shoes", "keep the foot clean", "cover it with a bandage"]),
    "splinter": ("a splinter", ["I have a splinter in my finger", "There is a splinter in my hand", "I got a splinter"], ["has a splinter in one finger", "got a splinter"],
                 ["wash the hand with soap", "pull it out with clean tweezers", "put a small bandage on it"]),
    "nose": ("a nosebleed", ["My nose is bleeding", "I have a nosebleed", "My nose bleeds often"], ["has a nosebleed", "has a nose that bleeds often"],
             ["sit up and lean forward", "press the nose softly", "put a cold cloth on the neck"]),
    "bruise": ("a bruise", ["I have a big bruise", "I bumped my arm", "I have a blue bruise on my leg"], ["has a big bruise", "bumped one arm"],
               ["put a cold cloth on it", "rest the sore place", "keep it still"]),
    "hiccups": ("hiccups", ["I have hiccups", "My hiccups do not stop", "I have had hiccups all morning"], ["has hiccups", "cannot stop the hiccups"],
                ["drink a glass of water slowly", "hold your breath for a moment", "eat slowly"]),
}

FAMILY = [("my son", "m"), ("my daughter", "f"), ("my mother", "f"), ("my father", "m"), ("my brother", "m"), ("my sister", "f"),
          ("my husband", "m"), ("my wife", "f"), ("my grandmother", "f"), ("my grandfather", "m"), ("my little boy", "m"),
          ("my little girl", "f"), ("my friend", "m"), ("my aunt", "f"), ("my uncle", "m")]

_CHOICE = re.compile(r"\{([^{}]*)\}")
_VAR = re.compile(r"\$(\w+(?:\.\w+)?)")
PRONOUNS = {"m": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
            "f": {"he": "she", "him": "her", "his": "her", "himself": "herself"}}


def tidy(text: str) -> str:
    """Capitals at sentence starts, a/an, no double spaces."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ([.,!?;:])", r"\1", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    text = re.sub(r"(^|\n|(?<!Mr)(?<!Mrs)(?<!Dr)[.!?] \"?|(?<=[ \n])\"|^\")([a-z])", lambda m: m[1] + m[2].upper(), text)
    return text


def expand(rng: random.Random, template: str, words: dict[str, str]) -> str:
    """Resolves {a|b} choices (nested ones too) and $variables (used in choices as well)."""
    while True:
        match = _CHOICE.search(template)
        if match is None:
            break
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end():]
    return tidy(_VAR.sub(lambda m: words[m[1]], template))


def person(rng: random.Random, words: dict[str, str], key: str, used: set[str]) -> None:
    """Casts a villager as $key, $key.he, $key.him, $key.his, $key.himself."""
    sex = rng.choice("mf")
    name = rng.choice([n for n in (BOYS if sex == "m" else GIRLS) if n not in used])
    used.add(name)
    words[key] = name
    words.update({f"{key}.{k}": v for k, v in PRONOUNS[sex].items()})


def join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
