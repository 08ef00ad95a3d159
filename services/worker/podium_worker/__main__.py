"""`python -m podium_worker`: the front process."""

from podium_worker.main import main

if __name__ == "__main__":
    main()
