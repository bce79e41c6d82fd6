"""What zpipeline's speed is, measured: ``make bench`` runs all of it and writes the tables and plots of docs/performance.rst.

Each module measures one thing, and can be run by itself: ``python -m benchmarks.latency``.
"""
