"""Start-up of the tests' child processes: TRL imports wandb where it is installed, 2.4 s of CPU in each of them."""

import sys


sys.modules["wandb"] = None  # as if it were not installed
