"""TRL-style scripts: `make_parser` and `main`, for `htpo train`, `accelerate launch` and `torchrun`."""
