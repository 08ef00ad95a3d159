"""What a bare machine does first: it runs the worker's image.

A script, as cloud-init takes it. Values of the environment are exported and handed on by name, so that they are on no
command line. Whatever ends the script powers the machine off: an image that cannot be pulled, a driver that is not
there, a worker that leaves. A machine that is off shows in the provider's list at once, where one that waits for
nothing would not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCRIPT = """\
#!/bin/bash
set -eu
trap poweroff EXIT
{exports}
if ! command -v docker > /dev/null; then
  apt-get update -q
  apt-get install -y -q docker.io
fi
if command -v nvidia-ctk > /dev/null; then
  nvidia-ctk runtime configure --runtime=docker
  systemctl restart docker
fi
docker run --detach --name podium-worker --network host --ipc host --log-driver local {options} {image} {command}
docker wait podium-worker
"""


def script(image: str, command: Sequence[str], environment: Mapping[str, str], *, gpus: bool) -> str:
    """User data for a machine with Debian's or Ubuntu's tools. Raises ValueError for a name that no shell takes."""
    for name in environment:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
    options = (["--gpus", "all"] if gpus else []) + [part for name in environment for part in ("--env", name)]
    return _SCRIPT.format(
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        options=shlex.join(options),
        image=shlex.quote(image),
        command=shlex.join(command),
    )
