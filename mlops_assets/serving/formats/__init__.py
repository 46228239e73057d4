"""Stored forms of a model: skops, native files and ONNX, their packaging, and checks of their integrity."""
