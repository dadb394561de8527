"""Golds as they stand in a column of a data set, as text."""


def gold_text(solution: object) -> str:
    """A gold as it stands in a column of a data set, where it may be a number or missing, as text."""
    return "" if solution is None else str(solution)
