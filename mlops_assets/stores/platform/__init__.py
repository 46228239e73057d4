"""The stores of one platform, and functions on several stores: pins, garbage collection, feature retrieval and run logging."""
