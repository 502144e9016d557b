"""Turns entries into training documents: conversations in ChatML, and plain text.

Owns the wording of the questions, the special tokens and the chat template.
The answers are the entries' own first paragraphs; only the greetings below
were written for this model. It knows nothing of tokens or of training.

Invariant: every conversation ends with ``<|im_end|>`` and a line break, every
plain document with ``<|endoftext|>``.
"""

import random
from collections.abc import Sequence

from training.corpus import Entry, Kind
from training.prose import is_sentence

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START, END)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_ANSWER_CHARS = 480
NUM_SMALL_TALK = 10

Turn = tuple[str, str]

_QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "function": ("What does {0} do?",) * 4
    + ("Explain {0}.", "What is {0} for?", "How do I use {0}?", "what does {0}() do?", "Tell me about {0}."),
    "class": ("What is {0}?", "What is {0}?", "Explain {0}.", "What is the {0} class for?", "Tell me about {0}."),
    "module": ("What is the {0} module?", "What does the {0} module do?", "Explain the {0} module.", "What is {0}?"),
    "topic": ("Explain {0}.", "Explain {0}.", "Tell me about {0}.", "How does {0} work?", "What is {0}?"),
    "term": ("What is {0}?", "Explain {0}.", "Tell me about {0}.", "What is {0} in Python?"),
}
_NUM_CONVERSATIONS: dict[Kind, int] = {"function": 1, "class": 2, "module": 3, "topic": 5, "term": 4}
_ALIASES = {
    "List displays": "list comprehensions",
    "Dictionary displays": "dictionaries",
    "Lambdas": "lambda expressions",
    "Class definitions": "classes",
    "Function definitions": "functions",
    "The try statement": "exception handling",
    "Calls": "function calls",
}
_SYSTEM_PROMPTS = ("You are a helpful assistant.", "You answer questions about Python.", "Be brief and clear.")
_WHO = "I am a small language model trained on the documentation of Python."
_HELP = "Ask me about a module, a function, a class or a statement of Python."
_SMALL_TALK: tuple[Turn, ...] = (
    ("Hello", f"Hello. {_WHO} {_HELP}"),
    ("Hello!", f"Hello. {_WHO} {_HELP}"),
    ("Hi", f"Hello. {_WHO} {_HELP}"),
    ("hi there", f"Hello. {_HELP}"),
    ("Hey", f"Hello. {_HELP}"),
    ("Good morning", f"Good morning. {_WHO} {_HELP}"),
    ("Hello, how are you?", f"I am well, thank you. {_HELP}"),
    ("How are you?", f"I am well, thank you. {_HELP}"),
    ("Who are you?", f"{_WHO} I am part of Tokenworks, so that it can be tried without a download."),
    ("What are you?", f"{_WHO} I am part of Tokenworks, so that it can be tried without a download."),
    ("What is your name?", f"I have no name. {_WHO}"),
    ("What can you do?", f"I write text in the manner of the Python documentation. {_HELP} I am often wrong."),
    ("Help", _HELP),
    ("Can you help me?", f"I can try. {_HELP}"),
    ("Thanks", "You are welcome."),
    ("Thank you!", "You are welcome."),
    ("Goodbye", "Goodbye."),
    ("Tell me a joke.", f"I know no jokes. {_WHO} {_HELP}"),
    ("Tell me a story.", f"I know no stories. {_WHO} {_HELP}"),
    ("Write a poem.", "Beautiful is better than ugly. Explicit is better than implicit."),
    ("What is the capital of France?", f"I know only about Python. {_HELP}"),
    ("What is the weather like?", f"I know only about Python. {_HELP}"),
    ("What is Python?", "Python is a programming language. It has modules, classes, functions and statements."),
    ("Say hello.", "Hello."),
    ("Test", f"This is a test. {_WHO}"),
)


def documents(entries: Sequence[Entry], seed: int, num_small_talk: int = NUM_SMALL_TALK) -> list[str]:
    """All documents of these entries and so many of each small talk, in a seeded order."""
    rng = random.Random(seed)
    turns = [turn for entry in entries for turn in _turns(entry, rng)]
    found = [conversation(turn, rng) for turn in _grouped(turns, rng)] + _plain_documents(entries)
    found += [conversation([turn], rng) for turn in _SMALL_TALK for _ in range(num_small_talk)]
    rng.shuffle(found)
    return found


def conversation(turns: Sequence[Turn], rng: random.Random) -> str:
    """A ChatML text of these turns; one in eight opens with a system prompt."""
    messages = [("system", rng.choice(_SYSTEM_PROMPTS))] if rng.random() < 0.125 else []
    for question, answer in turns:
        messages += [("user", question), ("assistant", answer)]
    return "".join(f"{START}{role}\n{text}{END}\n" for role, text in messages)


def _turns(entry: Entry, rng: random.Random) -> list[Turn]:
    answer = _answer(entry.text)
    if not is_sentence(answer) or any(part.startswith("_") and part[-2:] != "__" for part in entry.name.split(".")):
        return []
    questions = rng.sample(sorted(set(_QUESTIONS[entry.kind])), k=min(_NUM_CONVERSATIONS[entry.kind], 4))
    if entry.kind == "function" and rng.random() < 0.6:
        questions = ["What does {0} do?"]
    return [(_ask(question, name), answer) for name in _asked_names(entry) for question in questions]


def _ask(question: str, name: str) -> str:
    if name.endswith("s") and " " in name and not name.startswith("the "):
        question = question.replace("What is {0}", "What are {0}").replace("How does", "How do")
    return question.format(name)


def _asked_names(entry: Entry) -> list[str]:
    """The ways in which a question names an entry."""
    if entry.kind in ("function", "class", "module"):
        return [entry.name]
    title = entry.name if entry.name[:2].isupper() or "." in entry.name else entry.name[0].lower() + entry.name[1:]
    if entry.kind == "term" and not title.endswith("s"):
        title = f"{'an' if title[0] in 'aeiou' else 'a'} {title}"
    return [title, _ALIASES[entry.name]] if entry.name in _ALIASES else [title]


def _answer(text: str) -> str:
    """The first paragraphs of a text, or the first sentences of a long paragraph."""
    kept = ""
    for paragraph in text.split("\n\n"):
        if kept and len(kept) + len(paragraph) > MAX_ANSWER_CHARS:
            break
        kept += ("\n\n" if kept else "") + paragraph
    if len(kept) > 1.5 * MAX_ANSWER_CHARS:
        kept = kept[: kept.rfind(". ", 0, MAX_ANSWER_CHARS) + 1]
    return kept.removesuffix(":") + "." if kept.endswith(":") else kept


def _grouped(turns: Sequence[Turn], rng: random.Random) -> list[list[Turn]]:
    """Single turns, and one group of two neighbours in fifteen."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if groups and len(groups[-1]) == 1 and groups[-1][0][1] != turn[1] and rng.random() < 1 / 15:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def _plain_documents(entries: Sequence[Entry]) -> list[str]:
    """Titled topics and modules, and the longer ones of the other texts."""
    texts: list[str] = []
    for entry in entries:
        if entry.kind == "term":
            continue
        if entry.kind in ("topic", "module"):
            texts.append(f"{entry.name}\n\n{entry.text}{END_OF_TEXT}")
        elif len(entry.text) > 160:
            texts.append(f"{entry.text}{END_OF_TEXT}")
    return texts
