"""`python -m htpo_trl`: the `htpo` command."""

from .cli.commands import main


main()
