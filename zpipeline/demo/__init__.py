"""The experiment of ``zpipe demo``: a whole pipeline under load, and what becomes of its jobs when a worker is lost.

What ran is counted from the files that the workers' handler writes (`handler`, `tally`); nothing that the pipeline says
of itself is counted. `experiment` runs it all, `client` is the load, `processes` are the pipeline.
"""
