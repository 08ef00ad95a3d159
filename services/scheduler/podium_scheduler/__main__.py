"""`python -m podium_scheduler [migrate | registry [--file FILE]]`."""

import sys


def _run() -> None:
    # Each command pays for its own imports only.
    if sys.argv[1:2] == ["registry"]:
        from podium_runtime import settings
        from podium_scheduler.adapters import registry_listing
        from podium_scheduler.settings import RegistrySettings

        raise SystemExit(registry_listing.main(sys.argv[2:], settings.load(RegistrySettings).registry))
    if sys.argv[1:] == ["migrate"]:
        from podium_runtime import logs, settings
        from podium_scheduler.adapters.sql import migrate
        from podium_scheduler.settings import SchedulerSettings

        configured = settings.load(SchedulerSettings)
        logs.configure(configured.log_level, configured.log_format, "scheduler")
        migrate.main(configured.postgres_url)
        return
    from podium_scheduler.main import main

    main()


if __name__ == "__main__":
    _run()
