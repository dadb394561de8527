import pytest

from htpo_trl.verifier import Verifier, VerifierConfig


def _running(**limits):
    with Verifier(VerifierConfig(**limits)) as verifier:
        verifier.judge_answers(["x"], ["y"])
        yield verifier


@pytest.fixture(scope="session")
def verifier():
    """A verifier that is up."""
    yield from _running(deadline=3.0)


@pytest.fixture(scope="session")
def quick_verifier():
    """One for answers that hang, many at once."""
    yield from _running(workers=16, deadline=1.0)


@pytest.fixture(scope="session")
def patient_verifier():
    """One for many answers that do not hang, on whatever machine."""
    yield from _running(workers=2, deadline=30.0)
