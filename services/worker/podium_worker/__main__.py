"""`python -m podium_worker`: the front process; `python -m podium_worker prefetch`: fetches models, and ends."""

import sys


def _run() -> None:
    if sys.argv[1:2] == ["prefetch"]:
        # Each command pays for its own imports only.
        from podium_runtime import lifecycle
        from podium_worker import prefetch

        lifecycle.collect_rarely()
        raise SystemExit(prefetch.main(sys.argv[2:]))
    from podium_worker.main import main

    main()


if __name__ == "__main__":
    _run()
