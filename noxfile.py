"""
The version matrix: `nox` runs the tests on three sets of versions and writes the table of docs/compatibility.md.

All sessions use the torch of constraints.txt: the seam that moves is the one to TRL and transformers.
"""

import datetime
import json
import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import nox


ROOT = Path(__file__).parent
RESULTS = ROOT / "benchmarks/results/trl_matrix.json"
DOCS = ROOT / "docs/compatibility.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TORCH = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
REPORTED = ("trl", "transformers", "accelerate", "datasets", "peft", "torch")

declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["report"]]
PINS = {
    # What the metadata declares is what is tested: every `>=` becomes `==`.
    "oldest": [re.sub(r">=([^,]+).*", r"==\1", d) for d in declared if not d.startswith("torch")],
    # Half-way between the oldest and the newest.
    "middle": ["trl==1.13.0", "transformers==5.20.2", "accelerate==1.14.0", "datasets==5.0.1", "peft==0.20.0"],
    "newest": ["-c", "constraints.txt"],
}


@nox.session
@nox.parametrize("versions", [nox.param(name, id=name) for name in PINS])
def tests(session: nox.Session, versions: str) -> None:
    """The tests on one set of versions. With arguments for pytest, nothing is recorded."""
    session.install(TORCH)
    session.install(TORCH, *PINS[versions], "-e", ".[test]")
    report = Path(session.create_tmp(), "junit.xml")
    pytest = ["python", "-m", "pytest", f"--junitxml={report}", *session.posargs]
    session.run(*pytest, env={"OMP_NUM_THREADS": "1"}, success_codes=[0] if session.posargs else [0, 1])
    if session.posargs:
        return
    packages = json.loads(session.run("python", "-m", "pip", "list", "--format=json", silent=True))
    installed = {package["name"]: package["version"] for package in packages}
    suite = {name: int(n) for name, n in next(ET.parse(report).iter("testsuite")).items() if n.isdigit()}
    failed = suite["failures"] + suite["errors"]
    passed = suite["tests"] - failed - suite["skipped"]
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[versions] = {
        "python": session.run("python", "-V", silent=True).split()[1],
        **{name: installed[name] for name in REPORTED},
        "passed": passed,
        "failed": failed,
        "skipped": suite["skipped"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    RESULTS.write_text(json.dumps({name: results[name] for name in PINS if name in results}, indent=1) + "\n")
    if failed:
        session.error(f"{failed} tests failed")


@nox.session(python=False)
def table(session: nox.Session) -> None:
    """Print the recorded results as the table of docs/compatibility.md, and put it there."""
    results = json.loads(RESULTS.read_text())
    rows = [["", *next(iter(results.values()))], *([name, *map(str, row.values())] for name, row in results.items())]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    text = "\n".join(lines)
    print(text)
    before, rest = DOCS.read_text().split("<!-- matrix -->\n")
    DOCS.write_text(f"{before}<!-- matrix -->\n{text}\n{rest[rest.index('<!-- end -->') :]}")
