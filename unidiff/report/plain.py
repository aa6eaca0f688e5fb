"""LaTeX statements as one line of Unicode, for a terminal."""

from __future__ import annotations

import re
import unicodedata

_GREEK = {
    name if case == "SMALL" else name.capitalize(): unicodedata.lookup(f"GREEK {case} LETTER {name.upper()}")
    for name in (
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "mu", "nu", "xi", "pi", "rho",
        "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
    )
    for case in ("SMALL", "CAPITAL")
} | {"lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "varsigma": "ς", "varphi": "φ", "vartheta": "ϑ"}  # fmt: skip
_SYMBOLS = _GREEK | {
    "cdot": "·", "circ": "∘", "times": "×", "pm": "±", "nabla": "∇", "partial": "∂", "int": "∫", "sum": "Σ", "prod": "∏",
    "propto": " ∝ ", "sim": " ~ ", "succ": " ≻ ", "in": " ∈ ", "le": " ≤ ", "leq": " ≤ ", "ge": " ≥ ", "geq": " ≥ ",
    "ne": " ≠ ",
    "neq": " ≠ ", "ll": " ≪ ", "gg": " ≫ ", "approx": " ≈ ", "equiv": " ≡ ", "Rightarrow": " ⇒ ", "to": " → ",
    "leftarrow": " ← ", "mapsto": " ↦ ", "mid": " | ", "vert": "|", "Vert": "‖", "|": "‖", "lfloor": "⌊", "rfloor": "⌋",
    "langle": "⟨", "rangle": "⟩",
    "top": "ᵀ", "ell": "ℓ", "infty": "∞", "varnothing": "∅", "imath": "ı", "ldots": "…", "dots": "…", "{": "{", "}": "}",
    "quad": "   ", "qquad": "   ", ",": " ", ";": " ", ":": " ", " ": " ", "!": "", "left": "", "middle": "", "right": "",
    "bigl": "", "bigr": "",
}  # fmt: skip
_ACCENTS = {"hat": "\u0302", "widehat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "dot": "\u0307"}
_FONTS = ("mathrm", "mathbf", "mathcal", "text", "operatorname")
_FUNCTIONS = ("log", "exp", "min", "max", "tan", "tanh", "sin", "cos", "det", "tr", "sup", "inf", "erf")
_SUPERSCRIPTS = dict(zip("0123456789+-=()nT", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿᵀ", strict=True)) | {"ᵀ": "ᵀ", "'": "'", "*": "*"}
_SUBSCRIPTS = dict(zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_APART = "\u2009"  # a space if a letter or a bracket follows, else nothing
_TOKEN = re.compile(r"\\([a-zA-Z]+|.)\s*|(\S)|\s+")


def commands() -> frozenset[str]:
    """The LaTeX commands that :func:`plain` knows; another stands as its bare name."""
    return frozenset({*_SYMBOLS, *_ACCENTS, *_FONTS, *_FUNCTIONS, "frac", "tfrac", "dfrac", "sqrt"})


def plain(latex: str) -> str:
    """``latex`` (without dollar signs) in Unicode, as near as one line comes."""
    tokens = [("\\" + m[1]) if m[1] else m[2] for m in _TOKEN.finditer(latex) if m[1] or m[2]]
    text = "".join(_sequence(tokens[::-1]))
    text = re.sub(_APART + r"(?![\w(])", "", text).replace(_APART, " ")
    text = re.sub(r"\s*([=<>])\s*", r" \1 ", text).replace("-", "−")
    tight = re.sub(r" (?=[),;.\]])|(?<=[(\[]) ", "", re.sub(r"\s+", " ", _spaced(text))).strip()
    return unicodedata.normalize("NFC", tight)


def _spaced(text: str) -> str:
    """Sums outside brackets stand apart; a sign after a relation stays with its term."""
    depth, out = 0, ""
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        binary = letter in "+−" and out.rstrip()[-1:] not in ("", "=", ",", "(", "[")
        if letter in "+−" and binary:
            out = out.rstrip() + (f" {letter} " if depth == 0 else letter)
        elif letter != " " or not out.endswith(("+", "−")):
            out += letter
    return out


def _sequence(rest: list[str]) -> list[str]:
    """Items up to the group's end; ``rest`` is a stack whose top is the next token."""
    out: list[str] = []
    while rest:
        token = rest.pop()
        if token == "}":
            break
        if token in ("^", "_"):
            out.append(_raised(_item(rest), _SUPERSCRIPTS if token == "^" else _SUBSCRIPTS, token))
            continue
        rest.append(token)
        item = _item(rest)
        # A named function stands apart from what it is applied to and from what stands before it.
        if token.startswith("\\") and item in _FUNCTIONS:
            item = f" {item} "
        out.append(item)
    return out


def _item(rest: list[str]) -> str:
    token = rest.pop()
    if token == "{":
        return "".join(_sequence(rest))
    if not token.startswith("\\"):
        return token
    name = token[1:]
    if name in ("frac", "tfrac", "dfrac"):
        return _fraction(_item(rest).strip(), _item(rest).strip())
    if name == "sqrt":
        return f"√({_item(rest)})"
    if name in _FONTS:
        return _item(rest)
    if name in _ACCENTS:
        inner = _item(rest)
        return inner[:1] + _ACCENTS[name] + inner[1:]
    return _SYMBOLS.get(name, name)


def _fraction(above: str, below: str) -> str:
    return "½" if (above, below) == ("1", "2") else f"{_bracketed(above)}/{_bracketed(below)}{_APART}"


def _bracketed(part: str) -> str:
    whole = re.fullmatch(r"\(.*\)|[^\W\d_]+\([^()]*\)", part)
    return part if whole or not re.search(r"[-+=, (]", part) else f"({part})"


def _raised(text: str, letters: dict[str, str], sign: str) -> str:
    text = text.strip()
    word = len(text) > 1 and text.isalpha() and sign == "_"
    if not word and all(letter in letters for letter in text):
        return "".join(letters[letter] for letter in text)
    return f"{sign}{text}{_APART * word}" if len(text) == 1 or text.isalpha() else f"{sign}({text})"
