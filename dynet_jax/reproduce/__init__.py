"""The paper's experiments on data that a user has: a plan of runs, their training, and a report of what they show.

    budgets, experiments ──> plan ──> training (worker) ──> results ──┐
                                        measurements ─────────────────┴──> claims, sections ──> report

Everything is kept in one folder, and the report is a function of what is in it.
"""
