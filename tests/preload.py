"""What the fork server of the tests imports, once."""

import gc
import importlib


gc.disable()  # nothing becomes garbage while modules are imported
for name in ("distributed_run", "training_run", "evaluation_run", "scenario_run"):
    importlib.import_module(f"tests.{name}")
gc.enable()
gc.freeze()  # and nothing of them later, so that no collection, of which a run makes some, need look there
