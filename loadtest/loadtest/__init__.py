"""Load tests of the gateway: Locust users, an open-loop generator timed from its schedule, targets as data.

Importing this package patches nothing: `run_loadtest` starts `python -m loadtest`, and only that process loads
Locust, whose import replaces sockets and locks by gevent's.
"""

from loadtest.launch import run_loadtest
from loadtest.verdict import Verdict

__all__ = ["Verdict", "run_loadtest"]
