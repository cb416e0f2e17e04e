"""``python -m bespoke.cli``: the same as the ``bespoke`` command."""

from bespoke.cli import main

main()
