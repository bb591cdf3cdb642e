"""The singular of a table name: a class stands for one row."""

import re
from collections.abc import Iterable

_SAME = frozenset(
    (
        "bus campus canvas chaos news series species status virus corpus census bonus atlas bias "
        "alias gas lens plus meta metadata data media info information equipment sheep fish "
        "deer moose aircraft money rice chassis ethos kudos cosmos iris oasis_ address access "
        "process progress business class pass bypass loss boss mass glass dress stress success "
        "ios dns https css js aws sms gps cvs tls sys analytics statistics metrics_ physics "
        "mathematics economics ethics politics logistics lettuce apparatus focus radius surplus "
        "nexus genius campaign prospectus consensus hiatus opus octopus walrus"
    ).split()
)
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "teeth": "tooth",
    "feet": "foot",
    "geese": "goose",
    "mice": "mouse",
    "lice": "louse",
    "oxen": "ox",
    "dice": "die",
    "indices": "index",
    "indexes": "index",
    "vertices": "vertex",
    "matrices": "matrix",
    "appendices": "appendix",
    "vortices": "vortex",
    "codices": "codex",
    "criteria": "criterion",
    "phenomena": "phenomenon",
    "schemata": "schema",
    "quizzes": "quiz",
    "movies": "movie",
    "cookies": "cookie",
    "ties": "tie",
    "pies": "pie",
    "dies": "die",
    "lies": "lie",
    "zombies": "zombie",
    "selfies": "selfie",
    "rookies": "rookie",
    "calories": "calorie",
    "wolves": "wolf",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
    "leaves": "leaf",
    "halves": "half",
    "shelves": "shelf",
    "selves": "self",
    "thieves": "thief",
    "loaves": "loaf",
    "calves": "calf",
    "elves": "elf",
    "heroes": "hero",
    "potatoes": "potato",
    "tomatoes": "tomato",
    "echoes": "echo",
    "vetoes": "veto",
    "torpedoes": "torpedo",
    "cargoes": "cargo",
    "axes": "axis",
    "octopuses": "octopus",
    "gases": "gas",
    "lenses": "lens",
    "caches": "cache",
    "aches": "ache",
    "headaches": "headache",
    "niches": "niche",
    "avalanches": "avalanche",
    "quiches": "quiche",
    "databases": "database",
    "canvases": "canvas",
    "biases": "bias",
    "aliases": "alias",
    "atlases": "atlas",
    "bases": "base",
    "oases": "oasis",
    "crises": "crisis",
    "theses": "thesis",
    "testes": "testis",
    "diagnoses": "diagnosis",
    "hypotheses": "hypothesis",
    "syntheses": "synthesis",
    "parentheses": "parenthesis",
    "emphases": "emphasis",
    "analyses": "analysis",
    "synopses": "synopsis",
    "ellipses": "ellipsis",
    "neuroses": "neurosis",
    "prognoses": "prognosis",
    "catharses": "catharsis",
}
_RULES = (
    (re.compile(r"(statu|viru|campu|corpu|censu|bonu|focu|radiu|nexu|surplu|buse?)ses$"), r"\1s"),
    (re.compile(r"buses$"), "bus"),
    (re.compile(r"(ss|sh|ch|x|zz)es$"), r"\1"),
    (re.compile(r"([^aeiouy]|qu)ies$"), r"\1y"),
    (re.compile(r"(ss|us|is)$"), r"\1"),
    (re.compile(r"s$"), ""),
)


def singular(name: str, exclusions: Iterable[str]) -> str:
    """Make the last word of a snake_case name singular, unless the name is excluded."""
    if name.lower() in {excluded.strip('"').lower() for excluded in exclusions}:
        return name
    head, separator, word = name.rpartition("_")
    return head + separator + _singular_word(word)


def _singular_word(word: str) -> str:
    lower = word.lower()
    if lower in _SAME:
        return word
    if lower in _IRREGULAR:
        return _in_case_of(word, _IRREGULAR[lower])
    for pattern, replacement in _RULES:
        if pattern.search(lower):
            return _in_case_of(word, pattern.sub(replacement, lower))
    return word


def _in_case_of(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    same = 0
    while same < min(len(model), len(word)) and model[same].lower() == word[same]:
        same += 1
    return model[:same] + word[same:]
