"""
In wandb's place, on the path of processes that report nowhere: transformers and TRL import wandb where it is
installed, which takes a third of the time of all imports. To them, a module without a `run` is none.
"""
