"""What a label such as `Answer:` is followed by: the first block after it, and what a sentence says."""

import re
from itertools import takewhile


_LINES = 200  # of a block
_SAID = 1000  # characters of a sentence that is looked into
_PLAIN = re.compile(r"[ \t]*([-+]?\d+(?:\.\d+)?)\.?[ \t]*(?:\n|\Z)", re.ASCII)
# What ends a completion: marks of a turn's end, tags.
_TURN_END = re.compile(
    r"<\|[a-z_]{2,40}\|>|<｜[^<>\n]{1,40}｜>|</?s>|<eos>|<(?:end|start)_of_turn>"
    r"|\[/?(?:INST|EOS|ANSWER|END[A-Z ]{0,20})\]"
    r"|</?(?:final[_ -]?)?(?:answer|ans|solution|response|output|result|final)>",
    re.IGNORECASE,
)
_HTML = re.compile(
    r"</?(?:b|i|u|em|strong|p|span|div|code|pre|mark|center|details|li|ul|h\d|br)\b[^<>]{0,80}>", re.IGNORECASE
)
_SPACE = " \t\n\r\f\v\u00a0\u2002\u2003\u2009\u202f\u3000\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\ufe0f"
_SYMBOL = re.compile("[∎■-▫◻-◾☀-➿⬀-⯿🀀-🫿]")
_ARROW = re.compile(r"(?:[-=]+>|[\s:：=→⇒➡➜])+")
_JSON = re.compile(r'[ \t\n]*("(?:[^"\\\n]|\\.)*"|-?[\d.]+)[ \t\n]*(?:,[ \t\n]*"|\})')
# A line that ends so is about the next block.
_ONWARDS = re.compile(r"(?:[:：=]|\b(?:is|are|have|get|obtain|equals|be|gives))\Z")
_PUNCTUATION = ".,;:。．，；：、؛،।"
_KEPT = ("\\", "\\left", "\\right", "..")  # before punctuation that is part of a formula
_QED = (*(f"{mark}\\{name}{mark}" for name in ("blacksquare", "square", "qed") for mark in ("$", "")), "QED", "Q.E.D")
_QUOTES = {'""', "''", "``", "“”", "‘’", "„“", "«»", "「」", "『』"}

_LIST = re.compile(r"(?:[-*+•◦‣▪–—·●]|\d{1,2}[.)]|\(\d{1,2}\)|[①-⑨])[ \t\u00a0]+(?=\S)")
_FIRST_ITEM = re.compile(r"(?:[-*+•◦‣▪–—·●①]|1[.)]|\(1\))[ \t\u00a0]+(?=\S)")
_HEADING = re.compile(r"#{1,6}[ \t]+|>[ \t]?")
_FENCE = re.compile(r"(```+|~~~+)[ \t]*[\w+-]*[ \t]*\Z")
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_PAIRS = (("\\[", "\\]"), ("\\(", "\\)"), ("\\begin{", "\\end{"))
_ALIGNED = re.compile(
    r"\\begin\{(align(?:ed|at)?|gather|center|equation|displaymath|multline|math)\*?\}(.*?)\\end\{\1\*?\}", re.DOTALL
)

_F = "\ue000-\ue063"  # characters that stand for formulas
_FORMULA = re.compile(r"\$\$.+?\$\$|(?<!\\)\$(?:[^$\\\n]|\\.)+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_NUMBER = re.compile(
    r"(?<![A-Za-z\d.,^_\\])[-+−]?\$?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?(?:\s?%|°)?(?![A-Za-z\d^_!/])(?!\.\d|,\d)"
)
_WHY = (
    r"(?:since|because|as (?:required|desired|needed|expected|claimed|above|the|we|it|shown|stated)|which|so"
    r"|thus|hence|therefore|i\.e\.|that is|attained|achieved|reached|obtained|weil|denn|parce|car|porque|perché"
    r"|так как|因为)"
)
# Where a remark begins: a sentence, a reason, a bracket with one.
_CUT = re.compile(
    rf"(?<=[\w}})\]$%°{_F}])(?<! or)(?:[.?;]\s+(?=[A-Z\\$*({_F}])|(?<=!)\s+(?=[A-Z])|[。；]\s*(?=\S)"
    rf"|\s*[,;—–-]?\s+{_WHY}\b"
    rf"|\s*[(（\[](?:(?:{_WHY}|by|from|using|after|rounded|verified|checked|check|approx|approximately|about|or about"
    r"|see|note|the|final|exact|correct)\b|≈|=)"
    rf"|\s+[—–]\s+(?=[a-z])|\s+(?:←|//|#)\s|(?<=[\d{_F}]),?\s+where\b)"
)
_IS = re.compile(
    r"\b(?:is|are|equals?|was|becomes|be|ist|sind|beträgt|est|sont|es|son|è|é|равн[ао]|равен)[ \t]+"
    r"(?:(?:therefore|thus|then|exactly|simply|given by|equal to|égale? à|igual a|gleich)[ \t]+)*",
    re.IGNORECASE,
)
# By these the one number of a sentence is not what the sentence says.
_OTHERWISE = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|\w+n[’']t|wrong|incorrect|or|either|between|least|most|more|less|greater"
    r"|fewer|smaller|larger|than|over|under|above|below|up|plus|minus|times|divided|multiplied|squared?|cubed|power|root"
    r"|half|thirds?|quarters?|percent|hundred|thousand|million|billion|dozen|factorial|two|three|four|five|six|seven|eight|nine|ten|base|modulo|mod|multiples?|factors?"
    r"|except|without|unknown|maybe|perhaps|undefined|infinite(?:ly)?|infinity|pi|[ap]\.?m|sqrt|log|sin|cos|tan|exp|[ioy]"
    r"|не|нет|или|nicht|kein\w*|oder|pas|ne|ou|non|não|nie)\b|[=<>^*+\\_{}|≤≥≠≈×÷√π∞]|[不没沒非或万亿百千]|ない|아니|ليس|لا|नहीं",
    re.IGNORECASE,
)
_SO = re.compile(r"\A(?:so|hence|thus|therefore|exactly|only|just|it's)\b[,:]?\s+", re.IGNORECASE)
_AREA = re.compile(r"\bsquare (?=(?:\w*met|cent|unit|feet|foot|inch|yard|mile|[ckm]?m\b))", re.IGNORECASE)
_REMARK = re.compile(
    r"(?:(?:it|that)(?:'s| is) )?(?:verified|correct|checked|confirmed|right|done|above|see|same|as)\b"
    r"|it checks\b|yes, (?:it|this)\b",
    re.IGNORECASE,
)


def read(text: str) -> tuple[str, bool]:
    """What the text after a label says, and whether that can be an answer, not a remark."""
    if plain := _PLAIN.match(text):
        return plain[1], True
    if value := _JSON.match(text):
        is_escaped = not re.search(r"(?<!\\)\\(?!\\)", value[1])
        return clean(value[1].replace("\\\\", "\\") if is_escaped else value[1]), True
    if end := _TURN_END.search(text):
        text = text[: end.start()]
    if "<" in text or "&" in text:
        text = (
            _HTML.sub("", text).replace("&nbsp;", " ") if "</" in text or "<br" in text or "&nbsp;" in text else text
        )
    lines = text.split("\n", _LINES)[:_LINES]
    block, at = _block(lines, 0)
    while _ONWARDS.search(block.rstrip(_SPACE + "*_")[-20:]) and any(line.strip(_SPACE) for line in lines[at:]):
        block, at = _block(lines, at)
    while at < len(lines) and lines[at].strip(_SPACE).startswith("=") and lines[at].strip(_SPACE + "="):
        block, at = f"{block} {lines[at]}", at + 1
    content = clean(_flat(_ARROW.sub("", block, count=1) if _ARROW.match(block) else block))
    said = None if not content or _REMARK.match(content) else in_prose(content)
    return (content, False) if said is None else (clean(said), True)


def _block(lines: list[str], at: int) -> tuple[str, int]:
    """The first block at or after a line, and the line after it."""
    while at < len(lines) and not lines[at].strip(_SPACE + "*_-=#>~|:}\"'"):
        at += 1
    if at == len(lines):
        return "", at
    # Beside the label itself `-` is a minus.
    line, marks = _unmarked(lines[at], _FIRST_ITEM) if at else (lines[at].strip(_SPACE), "")
    rest = [_unmarked(later, None)[0] if ">" in marks else later.strip(_SPACE) for later in lines[at + 1 :]]
    if fence := _FENCE.match(line):
        inside = [*takewhile(lambda later: not later.startswith(fence[1]), rest)]
        return "\n".join(inside), at + len(inside) + 2
    rows = [line, *takewhile(lambda later: later.startswith("|"), rest)]
    above = lines[at - 1 : at] if at else []
    if line.startswith("|") and any(
        row.strip(_SPACE).startswith(("|-", "|:-", "| -", "| :-")) for row in rows + above
    ):
        cells = [cell for cell in _BETWEEN_CELLS.split(rows[-1]) if cell.strip()]
        return cells[-1] if cells else "", at + len(rows)
    if "-" in marks:  # items are one answer, up to one that explains
        items = [line, *(_unmarked(later, _LIST)[0] for later in takewhile(_LIST.match, rest))]
        items = [line, *takewhile(lambda item: len(_WORD.findall(item)) < 3 and ":" not in item, items[1:])]
        if len(items) > 1:
            return ", ".join(map(clean, items)), at + len(items)
    taken, is_lone, open_pairs, dollars = [], line == "$", 0, 0
    for later in [line, *rest]:
        taken.append(later)
        open_pairs += sum(later.count(left) - later.count(right) for left, right in _PAIRS)
        dollars += later.count("$" if is_lone else "$$")
        if open_pairs <= 0 and dollars % 2 == 0:
            return "\n".join(taken), at + len(taken)
    taken = [*takewhile(bool, rest)] if line in ("$", "$$", "\\[", "\\(") else [line]  # cut off
    return "\n".join(taken), at + len(taken)


def _unmarked(line: str, item: re.Pattern[str] | None) -> tuple[str, str]:
    """A line without the marks of heading, quote and list before it, and these marks."""
    line, marks = line.strip(_SPACE), ""
    for _ in range(4):
        if match := _HEADING.match(line):
            marks += match[0]
        elif item and "-" not in marks and (match := item.match(line)):
            if match[0][0] in "1(" and in_prose(clean(line[match.end() :])) is None:
                break  # a number, and a sentence
            marks += "-"
        else:
            break
        line = line[match.end() :].lstrip(_SPACE)
    return line, marks


def _flat(block: str) -> str:
    r"""A block without the environments that only set formulas apart: their lines as one."""
    if "\\begin{" not in block or len(block) > 2 * _SAID:
        return block

    def flat(match: re.Match[str]) -> str:
        body = re.sub(r"\\(?:nonumber|notag|(?:tag|label)\*?\{[^{}]*\})", "", match[2]).strip()
        body = re.sub(r"\\\\(?:\[[^\]]*\])?\s*(?:&\s*)?(?==)", " ", body.removesuffix("\\\\"))
        return re.sub(r"\\\\", ", ", body).replace("&", "") if "\\begin{" not in body else body

    return _ALIGNED.sub(flat, block)


def in_prose(text: str) -> str | None:
    """
    The answer that a line gives: the line, where it holds no sentence; of a sentence what follows its `is`, or the one
    number or formula in it. `None` where that is not clear.
    """
    if len(text) > _SAID:
        return text
    formulas = dict(zip(map(chr, range(0xE000, 0xE064)), _FORMULA.findall(text), strict=False))
    if re.search(f"[{_F}]", text):
        return text
    names = iter(formulas)
    plain = _FORMULA.sub(lambda match: next(names, match[0]), text).replace("**", "")

    def restored(part: str) -> str:
        return re.sub(f"[{_F}]", lambda match: formulas[match[0]], part).strip()

    if not (words := _WORD.findall(plain)) and not _CJK.search(plain) and "(≈" not in plain:
        return text
    if cut := _CUT.search(plain):
        head, tail = plain[: cut.start()], plain[cut.end() :]
        said = len(_WORD.findall(head))
        if said > 1 and cut[0][0] in ".?;。；" and re.search(rf"[\d{_F}]", tail):
            return None
        if said < 2 or re.search(rf"[\d{_F}]", head):
            plain, words = head, _WORD.findall(head)
    if "\\" in (plain := plain.replace("\\$", "$").replace("\\%", "%")):  # a formula without marks
        last = re.match(r"[A-Za-z][^\\\d]*?\b(?:is|are|equals)\s+(?=[\\\d(-])", plain)
        return restored(plain[last.end() if last and len(words) > 1 else 0 :])
    has_value = re.search(rf"[\d{_F}]", plain)
    plain = _SO.sub("", plain)
    is_short = len(words) < 2 and len(re.findall(f"[{_F}]", plain)) < 2 and not _CJK.search(plain)
    if is_short or (len(words) < 3 and not has_value):
        return restored(plain)
    for part in (*(plain[match.end() :] for match in [*_IS.finditer(plain)][-1:]), plain):
        left = {*map(str.lower, _WORD.findall(part))} - {"and", "or", "und", "et", "y", "и", "或", "和"}
        if part and not left and re.search(rf"[\w{_F}]", part):
            return restored(part)
        if not has_value and part is not plain and len(left) < 3 and not _OTHERWISE.search(part.removeprefix("no ")):
            return restored(part)
        if not _OTHERWISE.search(_AREA.sub("", _NUMBER.sub("", part))):
            things = [*re.finditer(f"[{_F}]", part), *_NUMBER.finditer(part)]
            if len(things) == 1 and len(re.findall(r"\d", part)) == len(re.findall(r"\d", things[0][0])):
                return restored(things[0][0])
    return None


def _is_command(text: str) -> bool:
    return text[:1] == "\\" and text[-1] == "}" and text.count("{") == text.count("}") and "</" not in text


def clean(text: str) -> str:
    """An answer without the markdown, quotes, final punctuation and single brackets around it."""
    for _ in range(12):
        if text.isalnum() or (text[-1:].isdigit() and text[0] in "-(\\") or _is_command(text):
            return text
        before = text
        text = text.strip(_SPACE)
        if not text.isascii():
            for end in (text[0], text[-1]):
                text = text.strip(end) if _SYMBOL.match(end) and text.strip(end) else text
        if "</" in text:
            text = _HTML.sub("", text)
        text = text.lstrip("*").strip("_")
        if text.endswith("*") and not text.rstrip("*").endswith(("^", "^{")):
            text = text.rstrip("*")
        if text[-1:] in _PUNCTUATION and not text[:-1].endswith(_KEPT):
            text = text[:-1]
        if text.endswith(_QED):
            text = text[: -max(len(mark) for mark in _QED if text.endswith(mark))]
        if text.endswith(("\\]", "\\)")) and text.count("\\" + {"]": "[", ")": "("}[text[-1]]) == 0:
            text = text[:-2]
        if text.endswith("$$") and text.count("$$") == 1:
            text = text[:-2]
        elif text.endswith("$") and text.count("$") == 1 and not text.endswith("\\$"):
            text = text[:-1]
        if (
            text[-1:] in (")", "]", "}", "】")
            and text[-2:-1] != "\\"
            and text[:1] != "]"  # ]0,1] in French
            and sum(map(text.count, (*"([{【", "\\l"))) < sum(map(text.count, ")]}】"))
        ):
            text = text[:-1]
        for mark in ("|", "`"):
            if text.endswith(mark) and text.count(mark) % 2:
                text = text[:-1]
        text = text.removesuffix("\\\\")
        if text[:1] == "}":
            text = text[1:]
        inner = text[1:-1]
        if text[:1] + text[-1:] in _QUOTES and len(text) > 1 and not {text[0], text[-1]} & {*inner.strip("`")}:
            text = inner
        if text == before:
            break
    return text
