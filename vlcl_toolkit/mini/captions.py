"""The caption grammar of the pre-training world: many phrasings, attributes left out at random, some captions wrong."""

from collections.abc import Sequence

import numpy as np

OPENINGS = (
    "",
    "",
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "a close view of ",
    "this is ",
)
ENDINGS = ("", "", "", ".", " in the middle", " seen in daylight", " on a cloudy day")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = {"fish": "fish", "leaf": "leaves", "cross": "crosses", "glasses": "glasses"}
VOWELS = "aeio"


def with_article(words: str) -> str:
    """'a' or 'an' before the words, as their sound wants ('an umbrella' included, 'a one way sign' too)."""
    first = words.split()[0]
    vowel = (first[0] in VOWELS and first != "one") or first.startswith("umb") or first in ("up",)
    return f"{'an' if vowel else 'a'} {words}"


def plural(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def join(*words: str | None) -> str:
    """The words that are there, with single spaces."""
    return " ".join(word for word in words if word)


def keep(rng: np.random.Generator, probability: float, words: str) -> str | None:
    """The words with a probability, else nothing: how attributes are left out."""
    return words if rng.random() < probability else None


def choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def sentence(rng: np.random.Generator, core: str) -> str:
    """A core phrase with a random opening and ending."""
    return choose(rng, OPENINGS) + core + choose(rng, ENDINGS)


def mix_up(rng: np.random.Generator, captions: list[str], share: float) -> list[str]:
    """Give a random ``share`` of the images the caption of another image: web captions are not always true."""
    wrong = np.flatnonzero(rng.random(len(captions)) < share)
    donors = rng.integers(len(captions), size=len(wrong))
    mixed = list(captions)
    for row, donor in zip(wrong, donors, strict=True):
        mixed[row] = captions[donor]
    return mixed
