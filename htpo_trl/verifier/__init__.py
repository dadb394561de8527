"""Is this answer the gold answer? math-verify in killable workers, with a deadline and a memory limit per answer.

Model output is hostile input: some answers keep a computer algebra system busy for hours, or take all memory. Every
pair of answer and gold gets a `Verdict` in bounded time, from any thread. The trainer's process only finds the answer
in the text and compares plain numbers (`answers.py`); the rest goes to a small process of its own (`server.py`), whose
workers run math-verify (`worker.py`).

Covered: numbers, fractions, surds, powers, intervals, finite sets, tuples, matrices, equations, inequalities and short
texts, in the last `\\boxed{}` or `Answer:` line; answers that hang, take all memory or crash; threads and forked
children; the death of a worker, of the server, of the trainer. Not covered: golds that are sentences or proofs, other
forms of a text that math-verify cannot parse; memory limits outside Linux; Windows.
"""

from .client import Judgement, Verdict, Verifier, VerifierConfig, configure, judge


__all__ = ["Judgement", "Verdict", "Verifier", "VerifierConfig", "configure", "judge"]
