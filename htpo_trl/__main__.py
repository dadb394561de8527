"""`python -m htpo_trl`: the `htpo` command."""

from .cli.commands import main


if __name__ == "__main__":
    main()
