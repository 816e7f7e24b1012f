"""Export: models to ONNX and OpenVINO files, checked against PyTorch."""
