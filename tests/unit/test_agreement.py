"""What the processes of a run must agree on, with the others' answers made up; real machines are in the drills."""

from argparse import Namespace

import pytest
from accelerate.utils import DistributedType

from htpo_trl.training import agreement
from htpo_trl.utils import UsageError


@pytest.fixture
def gathered(monkeypatch):
    """The other processes say what is in the list."""
    others = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(agreement, "gather_object", lambda mine: [*mine, *others])
    monkeypatch.setattr(agreement.socket, "gethostname", lambda: "node0")
    monkeypatch.setattr(agreement, "main_process_decides", lambda decide: decide())
    monkeypatch.setattr(agreement, "SEEN_AFTER", 0)
    return others


def test_what_differs_is_named(gathered):
    mine = {"learning_rate": 1e-6, "seed": 0, "dataset_path": "/here"}
    gathered.append(("node1", mine | {"dataset_path": "/there"}))
    agreement.check_same(mine)
    gathered.append(("node1", mine | {"learning_rate": 2e-6}))
    with pytest.raises(UsageError) as error:
        agreement.check_same(mine)
    assert str(error.value) == (
        "Rank 2 on node1 would run something else than rank 0 on node0: learning_rate is 1e-06 there and 2e-06 here. "
        "Give all machines the same options, files and packages."
    )
    gathered[:] = [("node1", {"seed": 0, "data": "7 rows"})]
    with pytest.raises(UsageError, match=r"data is None there and '7 rows' here; learning_rate is 1e-06 there and"):
        agreement.check_same(mine)


def test_one_process_has_nobody_to_ask(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(agreement, "gather_object", None)
    agreement.check_same({"seed": 0})


@pytest.mark.parametrize(
    ("save_on_each_node", "second_sees", "kind", "message"),
    [
        (False, True, "MULTI_GPU", None),
        (
            False,
            False,
            "MULTI_CPU",
            r"output_dir='.*' on node1 is not that on node0: .* set save_on_each_node to true",
        ),
        (False, False, "DEEPSPEED", r"output_dir='.*' on node1 is .* storage that all machines share\.$"),
        (True, False, "MULTI_GPU", None),
        (True, False, "FSDP", r"output_dir='.*' on node1 is .* storage that all machines share\.$"),
        (True, True, "MULTI_GPU", r"save_on_each_node=True, but the machines share output_dir"),
    ],
)
def test_where_checkpoints_go(gathered, tmp_path, save_on_each_node, second_sees, kind, message):
    args = Namespace(output_dir=str(tmp_path), save_on_each_node=save_on_each_node)
    accelerator = Namespace(
        distributed_type=DistributedType(kind), num_processes=4, is_main_process=True, is_local_main_process=True
    )
    gathered += [("node0", False, True), ("node1", True, second_sees), ("node1", False, True)]
    if message:
        with pytest.raises(UsageError, match=message):
            agreement.check_output_dir(args, accelerator)
    else:
        agreement.check_output_dir(args, accelerator)
    assert not [*tmp_path.iterdir()]


def test_what_another_machine_sees(tmp_path, gathered):
    args = Namespace(output_dir=str(tmp_path), save_on_each_node=False)
    assert not agreement._is_seen(args, "_machines_x")
    (tmp_path / "_machines_x").touch()
    assert agreement._is_seen(args, "_machines_x")
