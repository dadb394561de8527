from .callback import TokenRecorder
from .record import Record, RecordedCompletion, RecordSettings, read_record
from .view import print_token_map, write_token_map

__all__ = [
    "Record",
    "RecordSettings",
    "RecordedCompletion",
    "TokenRecorder",
    "print_token_map",
    "read_record",
    "write_token_map",
]
