"""For every test."""

from __future__ import annotations

import signal

# Whoever runs the tests as a shell's background job ignores SIGINT, and every process that a test starts and interrupts
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
