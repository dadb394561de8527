r"""
Where the answer stands in a completion. Linear in the text.

1. Of a completion with a block of reasoning (`<think>` and the like), only what follows the last one is read.
2. The answer is in the last `\boxed{}`, unless a label such as `Answer:` follows it that begins a line or a sentence
   and is followed by an answer.
3. Without a box it follows the last such label; without one of these, the last label within a sentence.
"""

import re
from collections import deque
from collections.abc import Iterator

from .labelled import clean, in_prose, read


#: A box, up to where its content begins.
BOX = re.compile(
    # With an argument in braces that is not empty and not dots; or without braces, before what can only be one.
    r"\\(?:boxed|f(?:rame)?box)\s*+(?:\{(?![\s.…]*+\})|(?=[-+−]?\s?\.?\d|\\[a-zA-Z{]|\(\s*[-+−]?\d))"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_END_OF_FORMULA = re.compile(r"\$|\\[)\]]|\n|\Z")

_THOUGHT = r"(?:think(?:ing)?|thoughts?|reasoning|reason|scratchpad)"
_REASONING = re.compile(
    rf"(?P<opens><(?:\w{{1,12}}[:_])?{_THOUGHT}(?:\s[^<>]{{0,80}})?(?<!/)>|<\|(?:begin|start)_(?:of_)?{_THOUGHT}\|>"
    rf"|<\|{_THOUGHT}(?:_start)?\|>|\[{_THOUGHT}\]|◁{_THOUGHT}▷|<\|channel\|>(?!\s*final)|<\|channel>)"
    rf"|</(?:\w{{1,12}}[:_])?{_THOUGHT}\s*>|<(?:\w{{1,12}}[:_])?{_THOUGHT}\s*/>|<\|end_(?:of_)?{_THOUGHT}\|>"
    rf"|<\|/?{_THOUGHT}(?:_end)?\|>|\[/{_THOUGHT}\]|◁/{_THOUGHT}▷|<\|channel\|>\s*final[^\n]{{0,60}}?<\|message\|>"
    r"|<channel\|>|\[BEGIN FINAL RESPONSE\]",
    re.IGNORECASE,
)
# gpt-oss's channels where special tokens are left out in decoding, as in training.
_BARE_CHANNEL = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z\"'(\d])")

# Words for "answer", in lower case: English first, since to look for one takes as long as for all of another tier.
_WORDS = (
    ("answer",),
    ("ans", "antwort", "respuesta", "resposta", "risposta", "reponse", "antwoord", "jawaban", "cevap", "vastaus"),
    (
        *("réponse", "re\u0301ponse", "răspuns", "odpowiedź", "odpověď", "válasz", "đáp án", "đáp số", "yanıt"),
        *("ответ", "відповідь", "отговор", "одговор", "απάντηση", "答案", "解答", "答え", "答", "정답", "답"),
        *("الجواب", "الإجابة", "الاجابة", "جواب", "پاسخ", "उत्तर", "উত্তর", "பதில்", "คำตอบ", "תשובה", "պատասխան"),
    ),
)
_MARK = r"[ \t\u00a0\u202f\u3000*_`\"'}]"
_AFTER_WORD = re.compile(
    rf"""(?P<tag>\|?[>\]])|(?:(?:{_MARK}|</\w{{1,8}}>){{0,8}}(?:
        (?:is|would[ ]be|final|finale|es|est|ist|è|é|это|是|应为|为|為|は|이|은|는|النهائي|النهائية)\b
        |(?:to|for|of|in)[ ][^:：\n]{{1,50}}(?=[:：])|\([^()\n]{{1,40}}\)|\[[^\[\]\n]{{1,40}}\]
        |[, ][ ]?(?:[a-z]{{1,12}},?[ ]){{1,4}}is(?=[ *_]{{0,4}}[:：])
    )){{0,2}}(?:{_MARK}|</\w{{1,8}}>){{0,12}}+
    (?:(?P<colon>[:：﹕∶꞉︰】])|(?P<equals>[=|→⇒➜]|->)|(?P<heading>\#{{0,6}}[ \t\r]*(?=\n)))""",
    re.VERBOSE,
)
_LEAD = re.compile(
    r"""(?:\\(?:text(?:bf|it|sc)?|math(?:bf|rm)|emph|underline|(?:sub)*section)\*?\{|</?\w{1,8}>
    |\d{1,2}[.)]\s|[^\w\n(\[]|_
    |(?:so|thus|hence|therefore|then|and|finally|the|my|our|this|correct|final|right|exact|numeric(?:al)?|simplified
    |short|la|le|el|die|meine|endgültige|richtige|mi|tu|sua|correcta|correcte|окончательный|итоговый|правильный)(?![^\W_])
    |因此|所以|故|则|綜上|综上|所述|最终|最后|最後|最終|正确|正確|本题|的|최종|अंतिम)*+\Z""",
    re.VERBOSE | re.IGNORECASE,
)
_TAG = re.compile(r"[<\[]\|?(?:final[_ -]?)?\Z", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?;]\s+|[\n。！？；]")
_HASHES = re.compile(r"(?:\A|\n)####[ \t]++(?=[^\n\d]*+\d)([^\n]*+)\s*+\Z")
_LOOKED_AT, _TRIED = 500, 8  # of the last words for "answer", and of the last labels


def extract_answer(completion: str, skip_reasoning: bool = True) -> str | None:
    r"""
    The final answer of a completion, by the rules above.

    Args:
        completion (`str`):
            What a model wrote.
        skip_reasoning (`bool`, *optional*, defaults to `True`):
            Whether to leave out blocks of reasoning, as between `<think>` and `</think>`; one that is not closed holds
            no answer. With `False` they are read as all else.

    Returns:
        `str` or `None`: the text of the answer, without markdown and final punctuation. `None` if there is none, or
        if the last box is not closed (a truncated completion).
    """
    text = _after_reasoning(completion) if skip_reasoning else completion
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    box = _last_box(text)
    strong, weak = _labels(text, box.end() if box else 0)
    for content, is_answer in (read(text[at:]) for at in strong):
        if is_answer:
            return content
    if hashes := "####" in text and _HASHES.search(text, max(box.end() if box else 0, text.rfind("\n####"))):
        return clean(hashes[1])
    if box:
        boxed = _content(text, box)
        return None if boxed is None else clean(boxed)
    found = [read(text[at:]) for at in weak] + [read(text[at:]) for at in strong]
    return next((content for content, is_answer in found if is_answer), found[-1][0] if found else None)


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`; `None` if there is none, or if it is not closed."""
    box = _last_box(text)
    return None if box is None else _content(text, box)


def _after_reasoning(text: str) -> str:
    """What follows the last block of reasoning: nothing, where that is not closed."""
    if _BARE_CHANNEL.match(text):
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    if not ("<" in text or "◁" in text or "THINK]" in text or "RESPONSE]" in text):
        return text
    tags = deque(_REASONING.finditer(text), 1)
    return text if not tags else "" if tags[0]["opens"] else text[tags[0].end() :]


def _last_box(text: str) -> re.Match[str] | None:
    end = len(text)
    while (end := text.rfind("box", 0, end)) > 0:
        start = text.rfind("\\", max(end - 6, 0), end)
        if start >= 0 and (box := BOX.match(text, start)):
            return box
    return None


def _content(text: str, box: re.Match[str]) -> str | None:
    if not box[0].endswith("{"):
        end = _END_OF_FORMULA.search(text, box.end())
        line = text[box.end() : end.start() if end else None]
        return in_prose(clean(line)) or line.strip()
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[box.end() : brace.start()].strip()
    return None


def _labels(text: str, start: int) -> tuple[list[int], list[int]]:
    """
    Where the text after each label begins, from the last one back: of labels that begin a line or a sentence, tags
    among them, and of those within a sentence.
    """
    lowered = text[start:].replace("İ", "i").lower()  # the one letter that would grow
    for words in _WORDS[: 2 if lowered.isascii() else 3]:
        strong, weak = [], []
        places = set()
        for word in words:
            if word in lowered:
                places |= {*deque(_places(lowered, word), _LOOKED_AT)}
        for at, length in sorted(places):
            at += start
            if (after := _AFTER_WORD.match(text, at + length)) is None:
                continue
            before = text[max(at - 100, start) : at]
            if after["tag"] is not None:
                if _TAG.search(before):
                    strong.append(after.end())
                continue
            begins = 0 if at - 100 <= start else None
            for sentence in _SENTENCE.finditer(before):
                begins = sentence.end()
            if begins is not None and _LEAD.match(before, begins):
                if after["heading"] is None or text[at].isupper() or not before[begins:].isspace():
                    strong.append(after.end())
            elif after["colon"]:
                weak.append(after.end())
        if strong or weak:
            return strong[: -_TRIED - 1 : -1], weak[: -_TRIED - 1 : -1]
    return [], []


def _places(text: str, word: str) -> Iterator[tuple[int, int]]:
    at = text.find(word)
    while at >= 0:
        if at == 0 or word >= "\u0e00" or not text[at - 1].isalpha():  # some scripts have no spaces
            yield at, len(word)
        at = text.find(word, at + len(word))
