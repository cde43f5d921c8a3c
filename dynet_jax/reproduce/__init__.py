"""The paper's experiments on a user's data: a plan of runs, their training, and a report of the findings.

    budgets, experiments ──> plan ──> training (worker) ──> results ──┐
                                        measurements ─────────────────┴──> claims, sections ──> report

Everything is stored in one folder, and the report is a function of its content.
"""
