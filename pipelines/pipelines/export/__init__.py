"""From a fitted model to a served one: ONNX graphs, parity, the bundle."""
