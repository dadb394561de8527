from .commands import OBJECTIVES, main, make_parser

__all__ = ["OBJECTIVES", "main", "make_parser"]
