"""The search for the network to ship: compaction, resolution, precision and backend within a latency budget, by device.

`space` says what is tried, `search` decides in which order, `work` does each step on files, `store` keeps what came of
it, and `driver` brings them together with who does the work: `one_by_one` in this process, `on_ray` on a cluster, or
`simulated` on paper. Everything but `on_ray` works without Ray.
"""
