"""What is known of GPUs by their names and told by no provider: their compute capability (NVIDIA's public list)."""

from __future__ import annotations

import re

# In order: "RTX 5000 Ada Generation" is no RTX 50xx.
_CAPABILITIES = tuple(
    (re.compile(pattern), capability)
    for pattern, capability in (
        (r"\bRTX PRO .*Blackwell", "12.0"),
        (r"\bAda Generation", "8.9"),
        (r"\bB300\b", "10.3"),
        (r"\bB200\b", "10.0"),
        (r"\bRTX 50\d\d\b", "12.0"),
        (r"\bG?H[12]00\b", "9.0"),
        (r"\b(RTX 40\d\d|L40S?|L4)\b", "8.9"),
        (r"\b(A100|A30)\b", "8.0"),
        (r"\b(RTX 30\d\d|RTX A\d{4}|A40|A16|A10G?)\b", "8.6"),
        (r"\bT4\b", "7.5"),
        (r"\bV100\b", "7.0"),
    )
)


def compute_capability(device_name: str) -> str:
    """Of a GPU by NVML's product name, as "8.9"; empty: unknown."""
    return next((capability for pattern, capability in _CAPABILITIES if pattern.search(device_name)), "")
