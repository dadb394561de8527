"""
`htpo check`: an installation proves itself on the machine at hand, offline, with models made on the spot.

A part (`parts.py`) is a function that yields findings. Each runs in a process of its own (`__main__.py`), which
`run.py` starts, watches and ends: a crash, a hang or a package that cannot be imported is red for that part alone.
"""
