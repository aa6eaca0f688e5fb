"""LaTeX statements as one line of Unicode, for a terminal."""

from __future__ import annotations

import re
import unicodedata

_GREEK = {
    name.lower(): unicodedata.lookup(f"GREEK SMALL LETTER {name}")
    for name in "ALPHA BETA GAMMA DELTA ETA THETA MU SIGMA PHI EPSILON".split()
} | {"lambda": "λ", "varepsilon": "ε", "varsigma": "ς", "Delta": "Δ", "Phi": "Φ"}
_SYMBOLS = {
    "cdot": "·", "nabla": "∇", "partial": "∂", "int": "∫", "sum": "Σ", "prod": "∏", "propto": "∝", "Rightarrow": "⇒",
    "to": "→", "sim": "~", "in": "∈", "top": "ᵀ", "log": "log ", "sqrt": "√", "quad": "  ", "qquad": "   ", "le": "≤",
    "ge": "≥", "mid": "|", "ldots": "…",
}  # fmt: skip
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "dot": "\u0307"}
_SUPERSCRIPTS = str.maketrans("0123456789+-=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿ")
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"


def plain(latex: str) -> str:
    """``latex`` (without dollar signs) in Unicode, as near as one line comes."""
    text = latex.replace(r"\|", "‖").replace(r"\{", "❴").replace(r"\}", "❵")
    text = re.sub(r"\\(left|right|bigl|bigr|!)", "", text)
    text = re.sub(r"\\[,;: ]", " ", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda m: _GREEK.get(m[1]) or _SYMBOLS.get(m[1]) or m[0], text)
    text = re.sub(r"\\(?:mathrm|mathbf|mathcal|text)" + _GROUP, lambda m: m[1].replace("\\ ", " "), text)
    text = re.sub(r"\\(hat|bar|tilde|dot)\s*(?:" + _GROUP + r"|(\w))", _accented, text)
    text = re.sub(r"\\t?frac\s*([^\s{\\])\s*([^\s{\\])", r"\\frac{\1}{\2}", text)
    before = ""
    while before != text:
        before = text
        text = re.sub(r"\\t?frac" + _GROUP + _GROUP, _fraction, text)
        text = re.sub(r"\\sqrt" + _GROUP, r"√(\1)", text)
    text = re.sub(r"\\([a-zA-Z]+)", r"\1", text)
    text = re.sub(r"\^(?:" + _GROUP + r"|(\w))", _raised, text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    text = text.replace("{", "(").replace("}", ")").replace("❴", "{").replace("❵", "}")
    text = re.sub(r"([Δ½∇∂]) +(?=\w)", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def _accented(match: re.Match[str]) -> str:
    inner = match[2] or match[3]
    return inner[0] + _ACCENTS[match[1]] + inner[1:]


def _fraction(match: re.Match[str]) -> str:
    above, below = match[1].strip(), match[2].strip()
    if (above, below) == ("1", "2"):
        return "½"
    return f"{_bracketed(above)}/{_bracketed(below)}"


def _bracketed(part: str) -> str:
    return f"({part})" if re.search(r"[+\-=, ]", part.strip()) else part


def _raised(match: re.Match[str]) -> str:
    inner = match[1] if match[1] is not None else match[2]
    if re.fullmatch(r"[0-9+\-=()n]+", inner):
        return inner.translate(_SUPERSCRIPTS)
    if inner in ("'", "ᵀ"):
        return inner
    return f"^{inner}" if len(inner) == 1 else f"^({inner})"
