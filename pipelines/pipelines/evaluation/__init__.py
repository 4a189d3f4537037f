"""How good models are: metrics, their intervals, cohorts, calibration, ablations and the report."""
