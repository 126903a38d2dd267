"""The benchmark suite behind `benchmarks/bench.py`: a file for each group of cases, and what they share.

A group is a module with

    HELP                          one line: what is measured, and how long it takes on two cores
    cases(quick)                  the arguments of every case, as dicts that JSON can hold; quick: tiny ones
    measure(**arguments)          one case, in a fresh process; its dict may hold "seconds" and "ratios" (spreads by
                                  name, of timing.py) and whatever the table shows beside them
    table(rows)                   the finished rows, {"arguments": ..., **measured}, as markdown
"""
