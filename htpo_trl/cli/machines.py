"""
The machines of a run: their launchers meet at the address of the first before anything is started, refuse what would
hang or go astray, and learn of each other's end, so that no machine waits for one that is gone.

Torch's launchers meet too, but in silence, for a quarter of an hour, and know nothing of each other afterwards.
"""

import json
import math
import os
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import accelerate.utils.launch as accelerate_environment
import psutil
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous.utils import _parse_rendezvous_config

from ..utils import UsageError, versions


#: Seconds that a machine waits for the others, unless `--rdzv_conf timeout=SECONDS` says otherwise.
PATIENCE = 900
#: Seconds between two words of a machine.
BEAT = 2
#: Seconds of silence after which a machine is lost.
GONE_AFTER = 120
#: Seconds that processes have to end by themselves when another machine has ended.
GRACE = 30
_FREE_AFTER = 90  # seconds that the place of a machine is waited for: a run of before may be about to end
_PAUSE = 1.0
_SOON = 3 * BEAT  # seconds in which a machine that is there says a word
_ANSWER = timedelta(seconds=30)  # of the store
_COMPUTES = ("htpo_trl", "trl", "transformers", "accelerate", "torch", "deepspeed", "peft", "vllm")


@contextmanager
def together(arguments: Namespace, command: str) -> Iterator["Machines | None"]:
    """
    Within, the launchers of all machines of the run are there. Raises a [`UsageError`] if one does not come, or does
    not fit. `None` for a run on one machine, and for launchers of accelerate that meet in another way.
    """
    elsewhere = arguments.use_deepspeed and arguments.deepspeed_multinode_launcher not in (None, "standard")
    if (arguments.num_machines or 1) == 1 or elsewhere or arguments.rdzv_backend not in (None, "static"):
        yield None
        return
    if arguments.use_deepspeed:
        arguments.deepspeed_multinode_launcher = "standard"  # the same command on each machine; accelerate's is pdsh
    arguments.main_process_port = int(arguments.main_process_port or 29500)
    machines, code = Machines(arguments, command), 1
    is_port_in_use = accelerate_environment.is_port_in_use
    accelerate_environment.is_port_in_use = lambda port=None: False  # it is: by the store here
    try:
        machines.meet()
        yield machines
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        raise
    except UsageError:
        code = 2
        raise
    finally:
        accelerate_environment.is_port_in_use = is_port_in_use
        machines.leave(code)


class Machines:
    """The machines of a run, as the launcher of one of them sees them."""

    def __init__(self, arguments: Namespace, command: str) -> None:
        self.rank, self.count = int(arguments.machine_rank or 0), int(arguments.num_machines)
        self.host, self.address = socket.gethostname(), (str(arguments.main_process_ip), arguments.main_process_port)
        self.name = f"{command}, machine {self.rank} ({self.host})"
        self.patience = float(_parse_rendezvous_config(arguments.rdzv_conf or "").get("timeout", PATIENCE))
        self.agreed = {
            "num_machines": self.count,
            "num_processes": arguments.num_processes,
            "DeepSpeed": f"ZeRO-{arguments.zero_stage or 2}" if arguments.use_deepspeed else "not used",
            "FSDP": "used" if arguments.use_fsdp else "not used",
            **{f"the version of {name}": each for name, each in versions().items() if name in _COMPUTES},
        }
        self._cards: dict[int, dict[str, Any]] = {}  # of the others: host, process, what must agree
        self._began, self._tell_at = time.monotonic(), 10.0
        self._server: TCPStore | None = None  # of the first machine, shared by torch's launcher in this process
        self._store: TCPStore | None = None
        self._word: dict[str, Any] = {"beat": 0, "code": None, "order": 0, "why": ""}
        self._heard: dict[int, tuple[int, float]] = {}  # of the others: last beat, and when it was heard
        self._found: tuple[str, int] | None = None  # what became of a machine for which the processes here were ended
        self._leaving, self._watch = threading.Event(), threading.Thread(target=self._look_after, daemon=True)

    def meet(self) -> None:
        """Wait for the others, telling for whom, and see to it that all mean the same run."""
        where = "{}:{}".format(*self.address)
        self._serve()
        while self._store is None:
            store = self._connect(where)
            with suppress(RuntimeError):  # of a store that went away, with a run of before
                self._store = store if self._takes_place(store) else None
        try:
            while missing := [i for i in range(self.count) if i != self.rank and not self._is_there(i)]:
                names = f"machine{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}, of {self.count}"
                mend = f"{names}, did not come to {where}. Start the same command on each, with its own --machine_rank"
                self._wait(f"waiting at {where} for {names}", mend)
        except RuntimeError as error:
            raise UsageError(f"The connection to machine 0, at {where}, broke: see what it says there.") from error
        self._watch.start()

    def _wait(self, line: str, mend: str, patience: float = math.inf) -> None:
        """A pause; with a line now and then, and an error when patience is at its end."""
        passed, patience = time.monotonic() - self._began, min(patience, self.patience)
        if passed >= patience:
            raise UsageError(f"{mend}. {passed:.0f} seconds were waited (--rdzv_conf timeout=SECONDS).")
        if passed >= self._tell_at:
            print(f"{self.name}: {line}, {passed:.0f} of {patience:.0f} seconds.", file=sys.stderr, flush=True)
            self._tell_at *= 3
        time.sleep(_PAUSE)

    def _serve(self) -> None:
        port = self.address[1]
        try:
            if self.rank == 0:
                self._server = TCPStore("localhost", port, None, True, _ANSWER, False, True)
        except RuntimeError as error:
            raise UsageError(
                f"main_process_port={port} is in use on {self.host}: by a program, another run, or another "
                "machine_rank=0 of this one. Set another port, the same on all machines, and on each its own rank."
            ) from error

    def _connect(self, where: str) -> TCPStore:
        """A connection to the store of the first machine, which may not be there yet."""
        host, port = self.address
        while True:
            try:
                socket.create_connection(self.address, timeout=5).close()
                break
            except OSError as error:
                found = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            mend = (
                f"main_process_ip={host} with main_process_port={port} cannot be reached from {self.host} ({found}). "
                "They must be an address of the machine of rank 0 and a port there that its firewall lets through"
            )
            self._wait(f"waiting for machine 0 at {where} ({found})", mend, math.inf if self.rank else 20)
        stores: list[TCPStore] = []

        def connect() -> None:
            with suppress(RuntimeError):
                store = TCPStore(host, port, None, False, _ANSWER, False)
                store.check(["htpo"])
                stores.append(store)

        thread = threading.Thread(target=connect, daemon=True)  # what answers otherwise leaves it waiting for ever
        thread.start()
        thread.join(20)
        if not stores:
            raise UsageError(
                f"main_process_port={port}: what answers at {where} is no launcher of a run. Set another port, the "
                "same on all machines."
            )
        return stores[0]

    def _takes_place(self, store: TCPStore) -> bool:
        key = f"htpo/card/{self.rank}"
        if store.add(f"htpo/taken/{self.rank}", 1) == 1:
            store.set(f"htpo/word/{self.rank}", json.dumps(self._word))
            store.set(key, json.dumps({"host": self.host, "pid": os.getpid(), "agreed": self.agreed}))
            return True
        other = json.loads(store.get(key))
        taken = f"machine_rank={self.rank} is taken, by process {other['pid']} on {other['host']}"
        mend = f"{taken}. Give each machine its own, from 0 to {self.count - 1}, and each run its main_process_port"
        self._wait(f"{taken}; waiting for the end of that run", mend, _FREE_AFTER)
        return False

    def _is_there(self, i: int) -> bool:
        assert self._store is not None
        if i not in self._cards:
            if not self._store.check([f"htpo/card/{i}"]):
                return False
            self._cards[i] = json.loads(self._store.get(f"htpo/card/{i}"))
            self._heard[i] = 0, time.monotonic()
            theirs, name = self._cards[i]["agreed"], f"machine {i} ({self._cards[i]['host']})"
            for what in dict.fromkeys([*self.agreed, *theirs]):
                values = self.agreed.get(what, "none"), theirs.get(what, "none")
                if values[0] != values[1]:
                    raise UsageError(
                        f"{what} is {values[0]} on machine {self.rank} ({self.host}), but {values[1]} on {name}. "
                        "Start the same command in the same environment on all machines."
                    )
        if json.loads(self._store.get(f"htpo/word/{i}"))["code"] is not None:
            raise UsageError(f"machine {i} ({self._cards[i]['host']}) has ended: see what it says there.")
        return True

    def _words(self) -> dict[int, dict[str, Any]]:
        """Say a word to the others, and hear theirs. Of the first machine, if it is gone, one that is made up."""
        assert self._store is not None
        self._word["beat"] += 1
        try:
            self._store.set(f"htpo/word/{self.rank}", json.dumps(self._word))
            words = {i: json.loads(self._store.get(f"htpo/word/{i}")) for i in self._cards}
        except RuntimeError:
            # Once it has been told of an end here, it may leave.
            order = math.inf if self._word["order"] else -1
            return {0: {"beat": -1, "code": 1, "order": order, "why": "it is gone, with its launcher"}}
        for i, word in words.items():
            if word["beat"] != self._heard[i][0]:
                self._heard[i] = word["beat"], time.monotonic()
        return words

    def _lost(self, words: dict[int, dict[str, Any]], patience: float) -> tuple[str, int] | None:
        """What became of the machine that was the first to end or to fall silent, and its exit code; if one was."""
        own = self._word["order"] or math.inf
        ended = [(word["order"], i) for i, word in words.items() if word["code"] and word["order"] < own]
        since, silent = min((self._heard[i][1], i) for i in self._cards)
        silence = time.monotonic() - since
        if ended:
            i = min(ended)[1]
            code, why = words[i]["code"], words[i]["why"] or f"with exit code {words[i]['code']}"
        elif silent in words and words[silent]["code"] is None and silence > patience:
            i, code, why = silent, 1, f"nothing has been heard of it for {silence:.0f} seconds"
        else:
            return None
        return f"machine {i} of {self.count} ({self._cards[i]['host']}) ended first: {why}", code

    def _look_after(self) -> None:
        """Until this launcher leaves. When another machine is lost, end the processes here."""
        while not self._leaving.wait(BEAT):
            if lost := self._lost(self._words(), GONE_AFTER):
                if not self._leaving.wait(GRACE):
                    self._found = lost
                    print(f"{self.name}: ending the processes here.", file=sys.stderr, flush=True)
                    for child in psutil.Process().children(recursive=True):
                        with suppress(psutil.Error):
                            child.kill()
                return

    def failed(self, code: int, why: str) -> tuple[str, int] | None:
        """
        Tell the others that processes have failed here. Returns what became of a machine that ended before, and its
        exit code; `None` where this one was the first.
        """
        self._end(code, why)
        until = time.monotonic() + _SOON
        while not self._found:
            words = self._words()
            if lost := self._lost(words, _SOON):
                return lost
            if time.monotonic() > until or all(word["code"] is not None for word in words.values()):
                return None
            time.sleep(BEAT / 4)
        return self._found

    def _end(self, code: int, why: str) -> None:
        assert self._store is not None
        self._leaving.set()
        if self._watch.is_alive():
            self._watch.join()
        order = 0
        with suppress(RuntimeError):
            order = self._store.add("htpo/ended", 1) if code else 0
        self._word |= {"code": code, "why": why, "order": order}

    def leave(self, code: int) -> None:
        """Tell the others. The first machine, which has their store, waits until they have heard it."""
        if self._store is None:
            return
        if self._word["code"] is None:
            self._end(code, "")
        until = time.monotonic() + (_SOON if code else math.inf)
        while True:
            words, now = self._words(), time.monotonic()
            there = [i for i, word in words.items() if word["code"] is None and now - self._heard[i][1] < GONE_AFTER]
            if self.rank or not there or now > until:
                return
            time.sleep(BEAT / 4)
