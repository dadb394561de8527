"""When the part `zero3` of `htpo check` cannot run; what it finds, `htpo check` shows, in a minute on two cores."""

import pytest

from htpo_trl.check import zero3
from htpo_trl.check.parts import CannotRunError, Machine


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (zero3, "find_spec", r"DeepSpeed is not installed: pip install 'htpo_trl\[deepspeed\]'"),
        (zero3.shutil, "which", "there is no C\\+\\+ compiler"),
    ],
)
def test_what_it_needs(tmp_path, monkeypatch, module, name, message):
    if module is not zero3:
        monkeypatch.setattr(zero3, "find_spec", lambda package: True)
    monkeypatch.setattr(module, name, lambda package: None)
    with pytest.raises(CannotRunError, match=message):
        next(zero3.find(Machine("cpu", tmp_path)))
