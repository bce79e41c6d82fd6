"""Tests of the page, in a browser, on real processes."""
