"""Is this answer the gold answer? math-verify in killable workers, with a deadline and a memory limit per answer.

Model output is hostile input: some answers keep a computer algebra system busy for hours, or take all memory. Every
pair of answer and gold gets a `Verdict` in bounded time, from any thread. The trainer's process finds the answer in
the text (`extraction.py`, `labelled.py`), brings it and the gold to one form (`forms.py`) and compares what needs no
algebra (`exact.py`); the rest goes to a small process of its own (`server.py`), whose workers (`worker.py`) run
math-verify (`algebra.py`).

Covered: numbers, fractions, surds, powers, intervals, finite sets, tuples, matrices, equations, inequalities and short
texts, where `extraction.py` says; answers that hang, take all memory or crash; threads and forked
children; the death of a worker, of the server, of the trainer. Not covered: golds that are sentences or proofs, other
forms of a text that math-verify cannot parse; memory limits outside Linux; Windows.
"""

from .client import Judgement, Verdict, Verifier, VerifierConfig, configuration, configure, judge


__all__ = ["Judgement", "Verdict", "Verifier", "VerifierConfig", "configuration", "configure", "judge"]
