"""The stores of one platform together, and what needs several of them: pins, garbage collection, offline retrieval, run logging."""
