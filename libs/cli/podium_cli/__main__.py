"""`python -m podium_cli`."""

from podium_cli.main import main

main()
