"""How fast zpipeline is: ``make bench`` measures all of it, and writes the tables and plots of docs/performance.rst.

Each module measures one thing, and can be run by itself: ``python -m benchmarks.latency``.
"""
