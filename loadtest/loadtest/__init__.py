"""Load tests of the gateway: Locust users, an open-loop generator timed from its schedule, targets as data.

Importing this package patches nothing: `run_loadtest` starts `python -m loadtest`, and only that process may load
Locust (for users who wait), whose import replaces sockets and locks by gevent's.
"""

from loadtest.launch import run_loadtest
from loadtest.saturation import Saturation
from loadtest.suites import run_suite
from loadtest.verdict import Verdict

__all__ = ["Saturation", "Verdict", "run_loadtest", "run_suite"]
