"""``python -m corollary.cli``: the command line where the script is not on the path."""

from corollary.cli import main

main()
