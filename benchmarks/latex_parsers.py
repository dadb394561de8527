"""How many golds of real benchmarks the two LaTeX parsers read: latex2sympy2, and its fork latex2sympy2_extended.

    python -m benchmarks.latex_parsers DATA --python OTHER/bin/python [--output FILE]

DATA: see benchmarks/verifier.py. OTHER is an environment with latex2sympy2 1.9.1, which cannot be installed beside
its fork: the two need different versions of one ANTLR runtime. Each parser gets the text as it stands, without
math-verify's clean-up. A minute.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.golds import FILES, golds_of


RESULTS = Path(__file__).parent / "results" / "latex_parsers.json"
READ = """
import json, sys
from importlib import import_module
from importlib.metadata import version
name = sys.argv[1]
parse = import_module(name).latex2sympy
unread = {}
for benchmark, golds in json.load(sys.stdin).items():
    unread[benchmark] = []
    for gold in golds:
        try:
            parse(gold)
        except Exception:
            unread[benchmark].append(gold)
print(json.dumps({"version": version(name), "unread": unread}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--python", required=True, help="interpreter of an environment with latex2sympy2")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    golds = {name: golds_of(name, arguments.data) for name in FILES}
    results: dict = {"golds": {name: len(texts) for name, texts in golds.items()}}
    for name, python in (("latex2sympy2", arguments.python), ("latex2sympy2_extended", sys.executable)):
        run = subprocess.run(
            [python, "-c", READ, name], input=json.dumps(golds), stdout=subprocess.PIPE, text=True, check=True
        )
        outcome = json.loads(run.stdout.splitlines()[-1])
        results[name] = {
            "version": outcome["version"],
            "read": {benchmark: len(golds[benchmark]) - len(texts) for benchmark, texts in outcome["unread"].items()},
            "not read, the first ten": {benchmark: texts[:10] for benchmark, texts in outcome["unread"].items()},
        }
        print(name, results[name]["version"], results[name]["read"])
    arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
