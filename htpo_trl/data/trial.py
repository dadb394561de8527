"""
Golds are tried before a run: the verifier must accept each as an answer to itself. What it does not accept there, no
completion can match, and training on it goes on for hours without a word.
"""

import hashlib
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..output.reading import parse_json, read_text
from ..output.writing import WriteError, write_json
from ..utils import UsageError
from ..verifier import Verdict, Verifier, VerifierConfig
from ..verifier.forms import bare_gold
from ..verifier.golds import is_sentence


if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

#: Golds that are tried by computer algebra, where it takes that.
SAMPLE = 500
#: From this share of golds that are not accepted on, the data are refused.
MAX_SHARE = 0.1
# Of the file of verdicts on a sample, and on as many numbers.
_MAX_CACHE_BYTES = 1 << 16

_ONE_NUMBER = re.compile(r"[^\d\\$=<>_^*+-]*?(-?\d+(?:\.\d+)?)[^\d\\$=<>_^*+-]*", re.ASCII)
# Words that change the number beside them.
_OF_VALUE = {
    *(
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "mod",
        "inf",
        "infinity",
        "percent",
        "hundred",
        "thousand",
    ),
    *("million", "billion", "trillion", "dozen", "factorial", "squared", "cubed", "base", "except", "than", "not"),
}


def try_golds(
    name: str,
    dataset: "Dataset",
    config: VerifierConfig,
    allow_unmatched: bool = False,
    places: Callable[[], Iterable[tuple[str, str]]] = lambda: (),
) -> str:
    """
    Try the golds of a data set, its column `solution`: those that need no computer algebra all, of the others a
    sample. Golds that differ in their digits alone, but for zeros, have one form, and one of them is tried.

    Args:
        name (`str`):
            What the data set is called in messages.
        dataset (`datasets.Dataset`):
            Rows whose `solution` is `None` are of another task. A stream is not tried.
        config ([`~htpo_trl.verifier.VerifierConfig`]):
            Limits of the verifier.
        allow_unmatched (`bool`, *optional*, defaults to `False`):
            Whether to go on where a tenth or more of the golds are not accepted.
        places (`Callable`, *optional*):
            Gives place and gold of each row of the file, for examples.

    Returns:
        `str`: a line that tells what was tried; empty where there is nothing to try.

    Raises:
        UsageError: where a tenth of the golds or more are not accepted.
    """
    if not hasattr(dataset, "__len__") or "solution" not in dataset.column_names:
        return ""
    counts, golds = _forms(dataset)
    count = counts.total()
    if not count:
        raise UsageError(f"{name}: 'solution' is empty in every row. The verifier compares answers with it: fill it.")
    sentences = {form for form, gold in golds.items() if is_sentence(bare_gold(gold))}
    numbers = {form: number for form in golds.keys() - sentences if (number := _number_in(golds[form]))}
    with Verifier(config) as verifier:
        verdicts = {form: verifier.decide(gold, gold) for form, gold in golds.items()}
        undecided = {form for form, verdict in verdicts.items() if verdict is None}
        sample = _sample(dataset, undecided) if undecided else []
        own = [(golds[form], number) for form, number in islice(sorted(numbers.items()), SAMPLE)]
        judged = _judged(verifier, sorted({*own, *((gold, gold) for gold in sample)}))
    refused = sentences | {form for form, verdict in verdicts.items() if verdict not in (None, Verdict.CORRECT)}
    refused |= {form for form, number in numbers.items() if judged.get((golds[form], number)) is Verdict.WRONG}
    n = sum(counts[form] for form in undecided - refused)
    tried = [gold for gold in sample if not is_sentence(bare_gold(gold))]
    failed = [gold for gold in tried if judged[gold, gold] is not Verdict.CORRECT]
    share = (sum(counts[form] for form in refused) + n * len(failed) / max(len(tried), 1)) / count
    told = f"golds of {name}: {count - n:,} of {count:,} tried without algebra" + (
        f", a sample of {len(sample)} of the other {n:,} by algebra" if n else ""
    )
    if not share:
        return f"{told}: all accepted as answers to themselves."
    examples = _examples(dataset, refused, {*failed}, places)
    message = (
        f"{name}: {_percent(share)} of {count:,} golds are not accepted as answers to themselves, so that no answer "
        f"can match them: {'; '.join(examples)}. Write bare answers, such as 18 or \\frac{{1}}{{2}}"
    )
    if share >= MAX_SHARE and not allow_unmatched:
        raise UsageError(f"{message}, or go on with --allow_unmatched_golds true.")
    _logger.warning("%s.", message)
    return f"{told}: {_percent(share)} not accepted."


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1g}"


def _golds(dataset: "Dataset") -> Iterator[tuple[Any, Any]]:
    """Golds as text, without those of other tasks, and their forms, column by column."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from .blocks import ROWS
    from .columns import gold_texts

    for table in dataset.select_columns(["solution"]).with_format("arrow").iter(ROWS):
        values = table["solution"].combine_chunks().drop_null()
        if pa.types.is_string(values.type):
            values = values.filter(pc.match_substring_regex(values, r"\S"))
        elif pa.types.is_floating(values.type):
            values = values.filter(pc.invert(pc.is_nan(values)))
        if len(values):
            golds = pa.concat_arrays([gold_texts(values), pa.array([], pa.string())])
            _, offsets, text = golds.buffers()
            digits = np.frombuffer(text or b"", np.uint8).copy()
            digits[(digits > ord("0")) & (digits <= ord("9"))] = ord("7")
            yield golds, pa.StringArray.from_buffers(len(golds), offsets, pa.py_buffer(digits), offset=golds.offset)


def _forms(dataset: "Dataset") -> tuple[Counter[str], dict[str, str]]:
    """Form of a gold → how many golds have it, and one of them."""
    import pyarrow as pa

    counts, examples = Counter[str](), dict[str, str]()
    for golds, forms in _golds(dataset):
        groups = pa.table({"form": forms, "gold": golds}).group_by("form")
        for each in groups.aggregate([("gold", "min"), ("gold", "count")]).to_pylist():
            counts[each["form"]] += each["gold_count"]
            examples.setdefault(each["form"], each["gold_min"])
    return counts, examples


def _sample(dataset: "Dataset", forms: set[str]) -> list[str]:
    """At most `SAMPLE` of the golds that have one of these forms, the same at every call."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(forms), pa.string())
    found = [gold for golds, own in _golds(dataset) for gold in golds.filter(pc.is_in(own, wanted)).to_pylist()]
    return found if len(found) <= SAMPLE else random.Random(0).sample(found, SAMPLE)


def _judged(verifier: Verifier, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Verdict]:
    """The verdict on pairs of gold and answer; kept for the next run with the same."""
    known = {(gold, answer): verifier.decide(answer, gold) for gold, answer in pairs}
    rest = [pair for pair, verdict in known.items() if verdict is None]
    path = _cache(rest, verifier.config)
    try:
        kept = parse_json(read_text(path, _MAX_CACHE_BYTES), _MAX_CACHE_BYTES) if rest else []
        found = [Verdict(verdict) for verdict in kept]
        is_whole = len(found) == len(rest)
    except (ValueError, TypeError):  # not there, or damaged
        is_whole = False
    if not is_whole:
        found = verifier.judge_answers([answer for _, answer in rest], [gold for gold, _ in rest])
        if not {Verdict.TIMED_OUT, Verdict.CRASHED} & {*found}:  # which may be otherwise in another hour
            with suppress(WriteError):
                write_json(path, found)
    return {pair: verdict for pair, verdict in known.items() if verdict} | dict(zip(rest, found, strict=True))


def _cache(pairs: list[tuple[str, str]], config: VerifierConfig) -> Path:
    from huggingface_hub.constants import HF_HOME

    code = [path.read_bytes() for path in sorted(Path(__file__).parents[1].glob("verifier/*.py"))]
    libraries = [version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy")]
    digest = hashlib.sha256(b"".join(code))
    digest.update(json.dumps([pairs, libraries, config.max_length, config.memory_limit]).encode())
    return Path(HF_HOME, "htpo_trl", "golds", f"{digest.hexdigest()[:32]}.json")


def _number_in(gold: str) -> str | None:
    """The number of a gold that is one beside a word or the letter of a choice: `about 18`, `18 km/h`, `A) 18`."""
    if (found := _ONE_NUMBER.fullmatch(gold)) is None:
        return None
    words = re.findall(r"[^\W\d_]{2,}", gold)
    is_choice = re.match(r"\(?[A-Ja-j][).:]", gold)
    return found[1] if (words and not {*map(str.lower, words)} & _OF_VALUE) or is_choice else None


def _examples(
    dataset: "Dataset", refused: set[str], failed: set[str], places: Callable[[], Iterable[tuple[str, str]]]
) -> list[str]:
    """Up to three golds that are not accepted, with their places where there are any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(refused), pa.string())
    found: list[str] = []
    for golds, forms in _golds(dataset):
        chosen = pc.or_(pc.is_in(forms, wanted), pc.is_in(golds, pa.array(sorted(failed), pa.string())))
        found += [gold for gold in dict.fromkeys(golds.filter(chosen).to_pylist()) if gold not in found]
        if len(found) >= 3:
            break
    left = {gold: repr(gold if len(gold) < 60 else f"{gold[:60]}...") for gold in found[:3]}
    if "" in left:
        left[""] = "a value that is no answer, such as a mapping or a date"
    examples = []
    for place, gold in places():
        if gold in left:
            examples.append(f"{place}, {left.pop(gold)}")
        if not left:
            break
    return [*examples, *left.values()]
