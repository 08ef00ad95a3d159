"""`python -m podium_scheduler`."""

from podium_scheduler.main import main

if __name__ == "__main__":
    main()
