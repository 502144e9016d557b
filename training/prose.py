"""Turns documentation strings into paragraphs that a person can read.

Owns the rules of cleaning: which blocks of a docstring are prose, which are
code, grammar, tables or transcripts, and how wrapped lines are joined again.
It knows nothing of where a text comes from or what is done with it.

Invariant: the result of `clean` holds no doctest prompt, no reST role, no
table and no line wrapped inside a sentence; it may be empty.
"""

import inspect
import re

_PLAIN_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": "--", "\t": "    "})
_ROLE = re.compile(r":[a-z:+]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`")
_BACKTICKS = re.compile(r"`{1,2}([^`\n]+)`{1,2}_{0,2}")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}([A-Za-z_][^*\n]{0,40}?)\*{1,2}(?![\w*])")
_CROSS_REFERENCE = re.compile(r"\s*\((?:see|See|see also|described in)\s+(?:section|also)?[^()]*\)")
_RULE = re.compile(r"^\s*[=*~^#+_-]{3,}\s*$")
_ITEM = re.compile(r"^\s*(?:[-*•]\s|\d+[.)]\s|\S+(?: \S+)?\s*(?:--|:)\s)")
_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(?:\s*(?:->|=).*)?$", re.S)
_CODE_LINE = re.compile(
    r"^\s*(?:def \w+\(|class \w+.*:$|import \w+(?:$|,| as)|from [\w.]+ import|(?:for|if|elif|while|with) .*:$"
    r"|(?:try|else|finally):|except\b.*:$|@\w+|[\w.\[\]]+ [-+*]?= |[\w.]+\(.*\)$|\$ |raise \w+|del \w+|pass$|\.\. )"
)
_NOISE = (">>>", "::=", "+--", "--+", " | ", "|   ", "====", "$Id", "http:", "https:", "XXX", "FIXME", "@", "\\")
_OMITTED = re.compile(r"^(?:Changed|New|Deprecated|Added) (?:in|since) version|^See also|^Copyright|^bpo-|^Issue ")


def plain(text: str) -> str:
    """The text with ASCII quotes and without reST roles, literals and emphasis."""
    text = text.translate(_PLAIN_QUOTES)
    text = _BACKTICKS.sub(r"\1", _ROLE.sub(r"\1", text))
    return _CROSS_REFERENCE.sub("", _EMPHASIS.sub(r"\1", text)).replace("::\n", ":\n")


def clean(text: str, max_chars: int = 100_000) -> str:
    """Readable paragraphs of a docstring, cut at a paragraph so as to stay near `max_chars`."""
    kept: list[str] = []
    for block in re.split(r"\n\s*\n", plain(inspect.cleandoc(text))):
        paragraph = _reflow(block) if _is_prose(block, is_first=not kept) else ""
        if paragraph and sum(map(len, kept)) + len(paragraph) > max_chars and kept:
            break
        if paragraph:
            kept.append(paragraph + "." * paragraph[-1].isalnum())
        elif kept and kept[-1].endswith(":"):
            kept.pop()
    while kept and kept[-1].endswith(":"):
        kept.pop()
    return "\n\n".join(kept)


def is_sentence(text: str) -> bool:
    """Whether a text ends as a sentence does and is long enough to be one."""
    return len(text) >= 25 and text[-1] in '.!?)"' and text.count(" ") >= 3


def _is_prose(block: str, is_first: bool) -> bool:
    if (
        not block.strip()
        or any(mark in block for mark in _NOISE)
        or _OMITTED.match(block.strip())
        or _SIGNATURE.match(block.strip())
    ):
        return False
    lines = block.splitlines()
    if any(_CODE_LINE.match(line) for line in lines) or not (is_first or _starts_well(block.strip())):
        return False
    wordlike = sum(char.isalpha() or char in " \n.,'\"" for char in block)
    has_columns = any("   " in line.strip() for line in lines)
    return wordlike >= 0.88 * len(block) and not has_columns


def _starts_well(block: str) -> bool:
    return block[0].isupper() or block[0].isdigit() or block[0] in "\"'-*(" or bool(_ITEM.match(block))


def _reflow(block: str) -> str:
    """One line per paragraph or list item."""
    joined: list[str] = []
    for line in block.splitlines():
        if _RULE.match(line) or not line.strip():
            continue
        if joined and not _ITEM.match(line):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line.strip())
    return re.sub(r" {2,}", " ", "\n".join(joined)).strip()
