"""The functions and numbers of the module signal, without its enumerations.

To make them takes longer than all else that a start imports, and every task waits for it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    try:
        import _signal as signal
    except ImportError:  # another Python
        import signal

__all__ = ["signal"]
