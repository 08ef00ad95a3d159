"""python -m podium_gateway"""

from podium_gateway.main import main

main()
