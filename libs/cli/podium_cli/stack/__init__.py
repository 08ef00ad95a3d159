"""A whole Podium on one machine: what `podium up` and the demo start, watch and end.

Everything is a child process of this one. Each is in its own session, so that the terminal's Ctrl-C reaches
only us and we end them in order; each asks the kernel to end it when we die, so that even SIGKILL leaves none.
"""

from podium_cli.stack.credentials import Credentials
from podium_cli.stack.options import StackOptions
from podium_cli.stack.service import StackError
from podium_cli.stack.stack import Stack

__all__ = ["Credentials", "Stack", "StackError", "StackOptions"]
