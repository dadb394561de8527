"""
Reports: one self-contained page and its pictures, from run directories alone (`htpo report RUN ...`).

Which metric is drawn in which picture is said in `panels.py`, the order of the sections in `writer.py`.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
