"""Imported first: one core's work is all that a request may take, and numpy reads this when it loads."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
