"""The singular of a table name: a class stands for one row."""

import re
from collections.abc import Iterable

_UNCHANGED = (
    "aircraft alias analytics apparatus atlas bias bus canvas census chaos chassis clothes "
    "consensus corpus cosmos css data deer dns equipment ethos fish gas hiatus https info "
    "information ios iris jeans js kubernetes kudos lens lettuce logistics mathematics media meta "
    "metadata money moose news oasis octopus os physics politics rice series sheep sms species "
    "tls"
)
_SAME = frozenset(_UNCHANGED.split())
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "teeth": "tooth",
    "feet": "foot",
    "mice": "mouse",
    "indices": "index",
    "vertices": "vertex",
    "matrices": "matrix",
    "appendices": "appendix",
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
    "wolves": "wolf",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
    "leaves": "leaf",
    "halves": "half",
    "shelves": "shelf",
    "selves": "self",
    "heroes": "hero",
    "potatoes": "potato",
    "tomatoes": "tomato",
    "echoes": "echo",
    "menus": "menu",
    "zombies": "zombie",
    "dice": "die",
    "geese": "goose",
    "axes": "axis",
    "octopuses": "octopus",
    "gases": "gas",
    "lenses": "lens",
    "caches": "cache",
    "niches": "niche",
    "canvases": "canvas",
    "biases": "bias",
    "aliases": "alias",
    "atlases": "atlas",
    "oases": "oasis",
    "crises": "crisis",
    "theses": "thesis",
    "diagnoses": "diagnosis",
    "hypotheses": "hypothesis",
    "syntheses": "synthesis",
    "parentheses": "parenthesis",
    "emphases": "emphasis",
    "analyses": "analysis",
}
_RULES = (
    (re.compile(r"(bonu|bu|campu|censu|corpu|focu|nexu|radiu|statu|surplu|viru)ses$"), r"\1s"),
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
