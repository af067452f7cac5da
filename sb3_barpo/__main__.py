"""``python -m sb3_barpo``."""

from sb3_barpo.cli import main

main()
