"""The core with fakes of ours: which rung answers, why others were left, and what every answer says."""


