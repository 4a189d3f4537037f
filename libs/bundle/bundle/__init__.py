"""The model bundle: manifest, hashes, ONNX admission, golden rows."""
